"""Checks a sample receiver from outside, with requests signed by the official library.

    python3 check.py verify python3 verify.py
    python3 check.py receiver node receiver.mjs

Starts the command with WEBHOOK_SECRET, PORT and INBOX set, sends what must be accepted and what must be refused, and
exits 1 if an answer is wrong. For `receiver` also: what comes twice is handled once, and after a restart still.
`python3 check.py docs` compares the samples with what README.md and docs/receiving.md quote.

Signing needs `pip install standardwebhooks`. Node looks for its library beside the sample, so run a copy of it in the folder
where `npm install standardwebhooks` was run.
"""

import base64
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QUOTED = {
    "README.md": ["verify.py", "verify.mjs", "verify.go"],
    "docs/receiving.md": ["receiver.py", "receiver.mjs"],
}
UUID_SECRET = "0217309e-3c74-41b5-82e9-bd60e5db9bdb"
SIGNING_SECRET = "whsec_" + base64.b64encode(UUID_SECRET.encode()).decode()
OTHER_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
START_SECONDS = 20


def envelope(request_id):
    # Spacing, escapes and numbers that no JSON library writes back as they were.
    data = '{ "id":"ev-1",  "analyticsEvent":"card-completed", "n":1.50e2, "big":12345678901234567890, "t":"\\u00e9é" }'
    return f'{{"requestId":"{request_id}","environmentId":"env-1","webhookId":"2nBrJUjz","isBatched":false,"data":{data}}}'


def signed(request_id, body, secret=SIGNING_SECRET, ago=0):
    from standardwebhooks import Webhook

    at = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(seconds=ago)
    return {
        "content-type": "application/json",
        "webhook-id": request_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(request_id, at, body),
    }


class Running:
    """The receiver under test."""

    def __init__(self, command, inbox, secret):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = os.environ | {"WEBHOOK_SECRET": secret, "PORT": str(self.port), "INBOX": inbox}
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log)
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > limit or self.process.poll() is not None:
                    sys.exit(f"{command} didn't start")
                time.sleep(0.02)

    def send(self, headers, body, method="POST"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, "/hook", body.encode(), headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def wait_for_lines(self, count):
        limit = time.monotonic() + START_SECONDS
        while len(self.lines()) < count and time.monotonic() < limit:
            time.sleep(0.02)

    def lines(self):
        self.log.seek(0)
        return self.log.read().splitlines()

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: expected {wanted}, got {got}")


def check_answers(receiver):
    accepted = []
    for what, change, method in [
        ("a signed POST", lambda h, i, b: h, "POST"),
        ("a signed PUT", lambda h, i, b: h, "PUT"),
        (
            "two signatures, the second is ours",
            lambda h, i, b: h | {"webhook-signature": f"{signed(i, b, OTHER_SECRET)['webhook-signature']} {h['webhook-signature']}"},
            "POST",
        ),
    ]:
        request_id = str(uuid.uuid4())
        body = envelope(request_id)
        expect(what, receiver.send(change(signed(request_id, body), request_id, body), body, method), 204)
        accepted.append(request_id)
    request_id = str(uuid.uuid4())
    body = envelope(request_id)
    good = signed(request_id, body)
    for what, headers, sent in [
        ("a changed body", good, body.replace("1.50e2", "150.0")),
        ("another id", good | {"webhook-id": str(uuid.uuid4())}, body),
        ("another secret", signed(request_id, body, OTHER_SECRET), body),
        ("signed 6 minutes ago", signed(request_id, body, ago=360), body),
        ("signed 6 minutes ahead", signed(request_id, body, ago=-360), body),
        ("no signature", {k: v for k, v in good.items() if k != "webhook-signature"}, body),
        ("a malformed signature", good | {"webhook-signature": "v1  v1,%%"}, body),
        ("a malformed timestamp", good | {"webhook-timestamp": "soon"}, body),
    ]:
        expect(what, receiver.send(headers, sent), 401)
    return accepted


def check_verify(command):
    receiver = Running(command, "", SIGNING_SECRET)
    accepted = check_answers(receiver)
    receiver.wait_for_lines(len(accepted))
    receiver.stop()
    expect("what was printed", receiver.lines(), [f"{request_id} card-completed" for request_id in accepted])


def check_receiver(command):
    with tempfile.TemporaryDirectory() as folder:
        inbox = f"{folder}/inbox"
        receiver = Running(command, inbox, UUID_SECRET)
        accepted = check_answers(receiver)
        again = envelope(accepted[0])
        expect("a repeated request", receiver.send(signed(accepted[0], again), again), 204)
        receiver.wait_for_lines(len(accepted))
        receiver.stop()
        handled = sorted(f"handled {request_id} card-completed" for request_id in accepted)
        expect("what was handled", sorted(receiver.lines()), handled)

        receiver = Running(command, inbox, SIGNING_SECRET)
        expect("a repeated request after a restart", receiver.send(signed(accepted[1], again := envelope(accepted[1])), again), 204)
        last = str(uuid.uuid4())
        expect("a new request after a restart", receiver.send(signed(last, envelope(last)), envelope(last)), 204)
        receiver.wait_for_lines(1)
        receiver.stop()
        expect("what was handled after a restart", receiver.lines(), [f"handled {last} card-completed"])


def check_docs():
    for document, samples in QUOTED.items():
        text = (ROOT / document).read_text()
        for sample in samples:
            if (HERE / sample).read_text() not in text:
                sys.exit(f"{document} doesn't quote examples/receivers/{sample} as it is")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["docs"]:
            check_docs()
        case ["verify", *command] if command:
            check_verify(command)
        case ["receiver", *command] if command:
            check_receiver(command)
        case _:
            sys.exit(__doc__)
    print("ok:", *sys.argv[1:])
