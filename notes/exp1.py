import sys, os, torch
from pathlib import Path
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.world.corpus import build_tokenizer
from expertchat.world.train import train_expert, Course
from tests.test_world import PROMPTS
torch.set_num_threads(1)
name, hints, million = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
sim=Simulator(load(),PROMPTS); tok=build_tokenizer(sim)
train_expert(sim,tok,"llama",Path(f"$EXP/e/{name}"),Course(million,("a",),hints=hints,compiled=True,state_every=10**9),lambda l: print(l,flush=True))
sys.argv=["x",f"$EXP/e/{name}","a"]
exec(open("nll.py").read())
