"""Stands in for vLLM in tests of `expertchat serve`: takes its words, loads nothing, and answers as tests/served.py does.

VARIABLES of its environment make it slow to begin (STAND_IN_LOADS seconds), fail (STAND_IN_FAILS: what it says), or end (STAND_IN_ENDS
seconds after it answers); STAND_IN_SLOW: seconds for an answer. What it was started with stands in the file STAND_IN_TOLD.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from http.server import ThreadingHTTPServer

from tests.served import Handler, Stub, Traits


class Own(Handler):
    """With the addresses that vLLM has besides."""

    served = Stub(Traits(adapters=True), key=os.environ.get("VLLM_API_KEY"), slow=float(os.environ.get("STAND_IN_SLOW", "0")))

    def do_GET(self) -> None:
        if self.path == "/health":
            self.say(200, "")
        elif self.path == "/metrics":
            told = {"num_requests_running": self.served.at_once - 1, "request_success_total": len(self.served.chats())}
            self.say(200, "".join(f'vllm:{name}{{model_name="m"}} {number}.0\n' for name, number in told.items()))
        else:
            super().do_GET()


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("host", "port", "model", "served-model-name"):
        parser.add_argument(f"--{name}")
    known, more = parser.parse_known_args()
    if told := os.environ.get("STAND_IN_TOLD"):
        seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "HF_HUB_OFFLINE")}
        with open(told, "w") as file:
            json.dump({"model": known.model, "name": known.served_model_name, "more": more, "environment": seen}, file)
    if said := os.environ.get("STAND_IN_FAILS"):
        print(f"INFO loading\nValueError: {said}", file=sys.stderr)
        return 1
    time.sleep(float(os.environ.get("STAND_IN_LOADS", "0")))
    if ends := os.environ.get("STAND_IN_ENDS"):
        threading.Timer(float(ends), lambda: os._exit(7)).start()
    http = ThreadingHTTPServer((known.host, int(known.port)), Own)
    http.daemon_threads = True
    http.serve_forever(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main())
