"""snap.py STATE NAME OUT: a state as a folder."""
import sys, torch
from pathlib import Path
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.world.corpus import build_tokenizer
from expertchat.world.train import make_model, SHAPES, save
from tests.test_world import PROMPTS
from transformers import PreTrainedTokenizerFast
import os
out=Path(sys.argv[3])
cache=Path("$EXP/tok")
if not cache.exists(): build_tokenizer(Simulator(load(),PROMPTS)).save_pretrained(cache)
tok=PreTrainedTokenizerFast.from_pretrained(cache)
m=make_model(SHAPES[sys.argv[2]],len(tok)); s=torch.load(sys.argv[1],weights_only=True)
m.load_state_dict(s["model"]); save(m,tok,out); print(s["now"]["step"],s["now"]["tokens"])
