#!/bin/bash
# The cheap runs behind figures and texts in the docs (docs_list.md names them). To be started once the new weights are in
# expertchat/world/models, on a machine with little other work (the rows marked "time" in docs_list.md want a quiet one).
#   bash docs_runs.sh              all of the cheap ones, some 10 to 15 minutes of one core
#   bash docs_runs.sh spells talk  some of them by name
#   MIDDLE=1 bash docs_runs.sh     also the table of best-of-n (minutes)
#   LEARN=RUN bash docs_runs.sh cards    the card of judges on a training run's pairs (a seed of `mixed`, say)
# Output: docs_out/NAME.txt; what was run and how long it took stands at the top and the end. Runs lie in docs_out/runs.
TREE=$TREE PY=python OUT=$EXP/docs_out RUNS=$EXP/docs_out/runs
export PYTHONPATH=$TREE PYTHONUNBUFFERED=1 COLUMNS=160
cd $TREE || exit 1
mkdir -p $OUT $RUNS
E() { echo; echo "\$ expertchat $*"; local t=$(date +%s.%N); nice -n 10 $PY -m expertchat.cli "$@"; echo "[exit $?, $(echo "$(date +%s.%N) - $t" | bc) s]"; }

sizes() { # README.md:8, world.md (table), spells.md:4 and :46, sft.md (weights), test_world
  cat expertchat/world/models/card.json; du -sb expertchat/world/models expertchat/world/models/*
  $PY - <<'P'
import json
from safetensors import safe_open
for name in ("llama", "mixtral", "embedder"):
    with safe_open(f"expertchat/world/models/{name}/model.safetensors", "pt") as file:
        print(name, sum(file.get_tensor(key).numel() for key in file.keys()), "weights; vocabulary", json.load(open(f"expertchat/world/models/{name}/config.json"))["vocab_size"])
P
}
chat() { # measured.md:8 (time), README's live.svg, labels.md (texts)
  rm -rf $RUNS/chat; E converse +experiment=chat view=plain run.dir=$RUNS/chat; E watch $RUNS/chat --speed 1000; }
sixteen() { # measured.md:9 (time)
  for n in 1 2 3; do rm -rf $RUNS/sixteen; E converse conversation.count=16 conversation.turns=6 view=none run.dir=$RUNS/sixteen; cat $RUNS/sixteen/summary.json; done; }
sixtyfour() { # measured.md:10 (time)
  rm -rf $RUNS/sixtyfour; E converse conversation.count=64 conversation.turns=6 view=none run.dir=$RUNS/sixtyfour; cat $RUNS/sixtyfour/summary.json; }
same() { # measured.md:11
  for b in 1 7 64; do rm -rf $RUNS/same-$b; E converse conversation.count=12 judging.form=both view=none engine.max_batch=$b run.dir=$RUNS/same-$b; done
  rm -rf $RUNS/same-0; E converse conversation.count=12 judging.form=both view=none engine.cache_gib=0 run.dir=$RUNS/same-0
  $PY - $RUNS <<'P'
import json, sys
def rows(run, name): return {r["id"]: r for r in map(json.loads, open(f"{sys.argv[1]}/same-{run}/{name}.jsonl"))}
for run in ("7", "64", "0"):
    texts = all([t["text"] for t in a["turns"]] == [t["text"] for t in rows(run, "transcripts")[i]["turns"]] for i, a in rows("1", "transcripts").items())
    wim = all(a["text"] == rows(run, "wim")[i]["text"] for i, a in rows("1", "wim").items())
    apart = max(abs(a["expected"] - rows(run, "ratings")[i]["expected"]) for i, a in rows("1", "ratings").items())
    print("1 against", run, "turns equal:", texts, "wim equal:", wim, "expected ratings apart at most:", apart)
P
}
turns() { # judging-again.md:76-77
  rm -rf $RUNS/eight $RUNS/turns; E converse conversation.count=8 conversation.turns=6 view=none run.dir=$RUNS/eight
  E judge $RUNS/eight 'judge=[expected,truth]' model=embedded_mixtral source.unit=turns view=plain run.dir=$RUNS/turns; }
dialogues() { # audit.md:113-119
  rm -rf $RUNS/thirtytwo $RUNS/whole; E converse conversation.count=32 view=none run.dir=$RUNS/thirtytwo
  E judge $RUNS/thirtytwo judge@llama=expected judge@mixtral=expected model@mixtral=embedded_mixtral judge=truth source.unit=transcripts view=plain run.dir=$RUNS/whole
  E audit $RUNS/whole out=$OUT/whole.md; cat $OUT/whole.md; }
cards() { # audit.md:94-111; needs a training run
  [ -z "$LEARN" ] && { echo "LEARN=RUN is not set: skipped"; return; }
  rm -rf $RUNS/cards; E judge $LEARN judge@llama=expected judge@mixtral=expected model@mixtral=embedded_mixtral judge@written=written 'judge=[length,random,first,middle,truth]' source.unit=pairs source.limit=100 source.identical=10 repeats=2 view=plain run.dir=$RUNS/cards
  E audit $RUNS/cards out=$OUT/cards.md; cat $OUT/cards.md; }
best() { # best-of-n.md:111-112
  rm -rf $RUNS/best; E best_of_n rule_text=first_sentence judge@length=length view=plain run.dir=$RUNS/best; cat $RUNS/best/README.md; }
spells() { # sft.md:56, spells.md:27-40
  rm -rf $RUNS/spells $RUNS/spells5
  E sft examples/spells.txt train=full train.epochs=60 train.learning_rate=1.5e-3 evaluation.every=5 view=plain run.dir=$RUNS/spells5
  E sft examples/spells.txt model=embedded:llama evaluation.tokens=24 train=full train.epochs=60 train.learning_rate=1.5e-3 evaluation.every=15 view=plain run.dir=$RUNS/spells
  cat $RUNS/spells/summary.json
  asked() { printf '%s\n' "Accio sun, light, water" "Accio water, light, sun" "Accio light, sun, ice" "Accio moon, rain, fog" "Accio light, water"; }
  asked | E talk embedded:llama history=false decoding@model.decoding=greedy model.decoding.reply.max_new_tokens=24
  asked | E talk $RUNS/spells history=false decoding@model.decoding=greedy model.decoding.reply.max_new_tokens=24
  asked | E talk $RUNS/spells history=false decoding@model.decoding=beam model.decoding.reply.beams=5 model.decoding.reply.max_new_tokens=24
  asked | E talk $RUNS/spells history=false decoding@model.decoding=sampling model.decoding.reply.temperature=0.05 model.decoding.reply.max_new_tokens=24; }
questions() { # sft.md:62-67
  for t in last_layer lora full "full train.learning_rate=5e-4"; do
    local d=$RUNS/questions-${t// /-}; rm -rf "$d"
    E sft examples/questions.csv train=$t train.epochs=8 train.batch=8 train.micro_batch=8 view=plain run.dir="$d"; cat "$d/summary.json"; done; }
doctor() { # course_metrics.md:60-61, column "another model, as a doctor"
  printf '%s\n' "Nun sag', wie hast du's mit der Religion?" "Tell me, how do you feel about religion?" | E talk embedded:llama 'system="Du bist Doktor Faust, ein Gelehrter, und antwortest ausweichend, in einem Satz."' history=false decoding@model.decoding=greedy model.decoding.reply.max_new_tokens=48; }
bees() { # talk.md:30: does it open a talk so? (the topic is called honey bees)
  for t in bees "honey bees"; do printf 'Please open the discussion.\n' | E talk embedded:llama "system=\"You are a human expert on $t.\""; done; }
ending() { # dialogues.md:84-85 (facts alone; done: 2 of 2,400, both of batteries)
  nice -n 10 $PY $EXP/docs_ending.py; }
middle() { # best-of-n.md:68-109: A the topics to train on, B the held-out ones
  local A B; A=$($PY -c 'from expertchat.world.facts import load; print(",".join(load().part("train")))'); B=$($PY -c 'from expertchat.world.facts import load; print(",".join(load().part("held_out")))')
  rm -rf $RUNS/bon-*
  E best_of_n topics=list "topics.list=[$A]" chooser=length judge=truth n=4 count=96 run.seed=1 view=plain run.dir=$RUNS/bon-train
  E reward_model $RUNS/bon-train target=truth view=plain run.dir=$RUNS/bon-rm
  E best_of_n topics=list "topics.list=[$B]" chooser=reward_model judges.chooser.reward_model.path=$RUNS/bon-rm judge=truth judge@length=length count=96 run.seed=2 view=plain run.dir=$RUNS/bon-reward; cat $RUNS/bon-reward/README.md
  E best_of_n topics=list "topics.list=[$B]" judge=truth judge@length=length count=96 run.seed=2 view=plain run.dir=$RUNS/bon-mixtral; cat $RUNS/bon-mixtral/README.md
  E best_of_n topics=list "topics.list=[$B]" chooser=length judge=truth n=32 count=48 run.seed=3 view=plain run.dir=$RUNS/bon-length; cat $RUNS/bon-length/README.md
  E best_of_n topics=list "topics.list=[$B]" chooser=shorter judge=truth n=8 count=48 run.seed=3 view=plain run.dir=$RUNS/bon-shorter; cat $RUNS/bon-shorter/README.md; }

[ $# -eq 0 ] && set -- sizes chat sixteen sixtyfour same turns dialogues cards best spells questions doctor bees ending ${MIDDLE:+middle}
for name; do echo "$(date +%T) $name"; $name >$OUT/$name.txt 2>&1; done
