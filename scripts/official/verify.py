"""Verifies requests, one JSON object a line on standard input, with the official Standard Webhooks library.

Each has id, timestamp, signature, body and secret. Exit code 1 if any isn't as signed.
"""

import base64
import json
import sys

from standardwebhooks import Webhook

verified = 0
for line in sys.stdin:
    request = json.loads(line)
    # What a subscription calls its signingSecret: whsec_ and the base64 of the secret's own bytes.
    secret = "whsec_" + base64.b64encode(request["secret"].encode()).decode()
    headers = {
        "webhook-id": request["id"],
        "webhook-timestamp": request["timestamp"],
        "webhook-signature": request["signature"],
    }
    Webhook(secret).verify(request["body"], headers)
    verified += 1
print(f"{verified} signatures verified")
sys.exit(0 if verified else 1)
