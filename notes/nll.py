import sys, random, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.world.corpus import Encoder, Batches
from expertchat.world.hints import trunk
from tests.test_world import PROMPTS
import torch.nn.functional as F
torch.set_num_threads(1)
sim=Simulator(load(),PROMPTS); tok=PreTrainedTokenizerFast.from_pretrained(sys.argv[1]); m=AutoModelForCausalLM.from_pretrained(sys.argv[1],dtype=torch.float32).eval()
enc=Encoder(tok,PROMPTS.analysis_prefix); b=Batches(sim,enc,("a","b") if len(sys.argv)<3 else (sys.argv[2],),"fresh",24,3)
tot=[0,0]; kinds={}
with torch.no_grad():
  for i in range(8):
    st=b.step(i,1.0)
    for mi in st.micro:
        for dt in (torch.float32,):
            h=m.model(input_ids=mi.ids,use_cache=False).last_hidden_state[:,:-1]
            w=mi.weights[:,1:]; c=w>0
            l=F.cross_entropy(m.lm_head(h[c]).float(),mi.ids[:,1:][c],reduction="none")
            tot[0]+=(l*w[c]).sum().item(); tot[1]+=w.sum().item()
            for ww in (0.8,1.0,3.0):
                k=w[c]==ww; a=kinds.setdefault(ww,[0,0]); a[0]+=l[k].sum().item(); a[1]+=int(k.sum())
print("plain loss",tot[0]/tot[1],{k:(v[0]/max(1,v[1]),v[1]) for k,v in kinds.items()})
