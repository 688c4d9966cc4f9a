"""jd.py FOLDER N llama|mixtral: the check's figures of one model."""
import sys, torch
from pathlib import Path
import expertchat.world.check as C
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.backends.local import LocalBackend
from expertchat.backends.embedding import SentenceEmbedder
from tests.test_world import PROMPTS
torch.set_num_threads(int(sys.argv[4]) if len(sys.argv)>4 else 1)
folder, n, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
w=load(); letter=C.SEATS[name] if hasattr(C,"SEATS") else {"llama":"a","mixtral":"b"}[name]
be=LocalBackend.load(folder, name, 0, dtype="fp32", device="cpu")
e="$EXP/world/embedder"
emb=SentenceEmbedder.load(Path(e) if Path(e).exists() else Path("expertchat/world/models/embedder"),"e","cpu",64)
c=C.Checker(w,Simulator(w,PROMPTS),{"a":be,"b":be},emb,n)
from expertchat.world.check import HOT,WARM
f=lambda d:" ".join(f"{k}={v:.3f}" for k,v in d.items())
print("judge",f(c.judge(letter)),flush=True)
print("hot",f(c.replies(letter,HOT)),flush=True)
print("warm",f(c.replies(letter,WARM)),flush=True)
