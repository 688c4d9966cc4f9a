import sys, random, torch
from collections import Counter
from pathlib import Path
from expertchat.backends.local import LocalBackend
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.world.check import *
from expertchat.world.judges import labels
from expertchat.judging.requests import analysis_request
from tests.test_world import PROMPTS
torch.set_num_threads(1)
w=load(); sim=Simulator(w,PROMPTS); name=sys.argv[2]; letter={"llama":"a","mixtral":"b"}[name]
be=LocalBackend.load(Path(sys.argv[1]),name,0,dtype="fp32",device="cpu")
c=Checker(w,sim,{"a":be,"b":be},None,1); ex=c.experts(HOT)[letter]
rng=random.Random(5); cs=[]
while len(cs)<60:
    j,t=sim.judged(rng)
    if j.subject!=letter: cs.append((replace(j,categories={"depth":""}),t))
rs=[analysis_request(ex,f"j{i}",j) for i,(j,t) in enumerate(cs)]
an=[r.prefix+o.text for r,o in zip(rs,be.generate(rs))]
C=Counter(); pos=Counter(); ex_=[]
for (j,t),a in zip(cs,an):
    want,got=labels(sim.points(j,t,letter)),labels(a)
    names={f.aspect for f in w.topics[j.topic]}
    kind=lambda l: "none" if not l else l if l in("wrong","off topic","question","remark","unsure") else "again" if l.endswith(" again") else "fact" if l in names else "foreign aspect"
    n=len(want)
    for k,v in want.items():
        g=got.get(k,""); 
        C[(kind(v), kind(g) if g!=v else "RIGHT")]+=1
        pos[(n//10, g==v)]+=1
for k,v in sorted(C.items()): print(k,v)
print({b:pos[(b,True)]/(pos[(b,True)]+pos[(b,False)]) for b in range(4) if pos[(b,True)]})
rng=random.Random(9); hs=[]
while len(hs)<10:
    d=sim.dialogue(rng,turns=rng.randint(0,5))
    if d.turns[-1].speaker!=letter: hs.append(History(d.topic,d.turns))
for h,o in zip(hs,be.generate([ex.reply_request(f"x{i}",h)[0] for i,h in enumerate(hs)])): print(h.topic,"|",h.turns[-1].text[-60:],"->",o.text, [ (x.kind,x.again) for x in w.read([o.text],h.topic)[0].labels])
