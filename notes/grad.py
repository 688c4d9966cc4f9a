import torch, random, sys
from pathlib import Path
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.world.corpus import Encoder, Batches
from expertchat.world.hints import *
from tests.test_world import PROMPTS
import torch.nn.functional as F
torch.set_num_threads(1)
p="$EXP/world/llama"
sim=Simulator(load(),PROMPTS); tok=PreTrainedTokenizerFast.from_pretrained(p); m=AutoModelForCausalLM.from_pretrained(p,dtype=torch.float32).train()
b=Batches(sim,Encoder(tok,PROMPTS.analysis_prefix),("a",),"fresh",24,3); st=b.step(1,1.0)
def grads(which):
    m.zero_grad(); val=0
    for mi in st.micro:
        h3,last=trunk(m,mi.ids); w=mi.weights[:,1:]; c=w>0
        if which in("lens","look"):
            if not len(mi.marks): continue
            l={"lens":labels_at_markers,"look":look_at_markers}[which](m,h3,mi)/st.marks
        else:
            e=F.cross_entropy(m.lm_head(last[:,:-1][c]),mi.ids[:,1:][c],reduction="none"); ww=w[c]
            k={"main":ww>0,"talk":ww==1,"label":ww==3}[which]; l=(e*ww)[k].sum()/st.weight
        l.backward(); val+=l.item()
    g=torch.cat([x.grad.flatten() if x.grad is not None else torch.zeros(x.numel()) for x in m.parameters()])
    return val,g
r={k:grads(k) for k in("main","talk","label","lens","look")}
for k,(v,g) in r.items(): print(k,f"loss {v:.4f} grad {g.norm():.4f} cos with main {F.cosine_similarity(g,r['main'][1],0):.3f}")
print(st.marks, st.weight)
