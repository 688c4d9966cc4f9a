from expertchat.world.facts import load
import torch, re
from sentence_transformers import SentenceTransformer
m=SentenceTransformer("$MODELS/all-MiniLM-L6-v2",device="cpu")
w=load(); F=[(t,f) for t,fs in w.topics.items() for f in fs]
E=torch.stack([m.encode([f.clauses[k] for _,f in F],convert_to_tensor=True,normalize_embeddings=True,batch_size=64) for k in (0,1,2)])
S=torch.stack([E[a]@E[b].T for a in range(3) for b in range(3)]).max(0).values
S.fill_diagonal_(0)
I=torch.triu(S,1).flatten().topk(26)
for v,i in zip(I.values,I.indices):
    a,b=divmod(int(i),len(F)); print(f"{v:.3f} {F[a][0]}: {F[a][1].aspect} | {F[a][1].clauses[0]} || {F[b][0]}: {F[b][1].aspect} | {F[b][1].clauses[0]}")
# own wordings far apart
own=torch.stack([(E[0]*E[1]).sum(-1),(E[0]*E[2]).sum(-1)]).min(0).values
for v,i in zip(*own.topk(12,largest=False)): print(f"{v:.3f}",F[i][0],F[i][1].aspect,F[i][1].clauses)
from collections import Counter
print([a for a,n in Counter(f.aspect for _,f in F).items() if n>1])
