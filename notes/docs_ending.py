import random
from expertchat.records import Turn
from expertchat.talk.ending import only_courtesy, repeats, silent, stuck
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator, capital
w = load()
old = {"volcanoes","honey bees","tides","coral reefs","bread baking","vaccines","black holes","chess","photosynthesis","earthquakes","solar panels","sleep","glaciers","jazz","the Roman Empire","batteries","rainforests","coffee","DNA","electric cars","whales","the Moon landing","antibiotics","spiders"}
rng = random.Random(0)
n = ended = n_old = ended_old = 0
for topic, facts in w.topics.items():
    for _ in range(40):
        said = [capital(f.clauses[rng.randrange(3)]) + "." for f in rng.sample(facts, 10)]
        turns = [Turn(speaker="ab"[i % 2], text=t) for i, t in enumerate(said)]
        hit = any(silent(turns[:k]) or repeats(turns[:k], 0.9) or stuck(turns[:k], 0.9) or only_courtesy(topic, turns[:k]) for k in range(1, 10))
        n += 1; ended += hit
        if topic in old: n_old += 1; ended_old += hit
        if hit: print(topic, said)
print(n, ended, n_old, ended_old)
