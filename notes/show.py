import sys, random, torch
from pathlib import Path
from expertchat.backends.local import LocalBackend
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.world.check import *
from tests.test_world import PROMPTS
w=load(); sim=Simulator(w,PROMPTS); name=sys.argv[2]; letter={"llama":"a","mixtral":"b"}[name]
be=LocalBackend.load(Path(sys.argv[1]),name,0,dtype="fp32",device="cpu")
c=Checker(w,sim,{"a":be,"b":be},None,1); ex=c.experts(HOT)[letter]
rng=random.Random(5); hs=[]
while len(hs)<6:
    d=sim.dialogue(rng,turns=rng.randint(0,3))
    if d.turns[-1].speaker!=letter: hs.append(History(d.topic,d.turns))
out=be.generate([ex.reply_request(f"x{i}",h)[0] for i,h in enumerate(hs)])
for h,o in zip(hs,out): print(h.topic,"|",h.turns[-1].text,"\n   ->",repr(o.text))
from expertchat.judging.requests import analysis_request, wim_request
cs=[]
while len(cs)<3:
    j,t=sim.judged(rng)
    if j.subject!=letter: cs.append((j,t))
rs=[analysis_request(ex,f"j{i}",j) for i,(j,t) in enumerate(cs)]
an=[r.prefix+o.text for r,o in zip(rs,be.generate(rs))]
for (j,t),a in zip(cs,an): print(repr(a)); print(repr(sim.points(j,t,letter))); 
ws=[wim_request(ex,f"w{i}",j,a,dict(sim.deserved(j,t)),"missing") for i,((j,t),a) in enumerate(zip(cs,an))]
for o,(j,t) in zip(be.generate(ws),cs): print(repr(o.text)); print(repr(sim.wim_text(j,t,letter,"missing")))
