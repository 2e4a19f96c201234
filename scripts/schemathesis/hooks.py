"""Who asks, and where deliveries go: tokens by role, and URLs of the test's own receiver."""

import base64
import os

import schemathesis
from hypothesis import strategies as st

BEARERS = {
    "Credentials": os.environ["POSTRIDER_TEST_AUTH"],
    "Webhooks": os.environ["POSTRIDER_TEST_WORKBENCH"],
    "Events": os.environ["POSTRIDER_TEST_EVENTS"],
}
CLIENT = base64.b64encode(os.environ["POSTRIDER_TEST_CLIENT"].encode()).decode()
RECEIVER = os.environ["POSTRIDER_TEST_RECEIVER"]

# A URL's grammar isn't JSON Schema's to describe, and none of these should be anybody's.
schemathesis.openapi.format("uri", st.sampled_from([RECEIVER + path for path in ("/a", "/b?c=d", "/fails")]))


@schemathesis.hook.apply_to(operation_id="getToken")
def filter_body(context, body):
    """RFC 6749, section 3.2: an empty parameter is an absent one, which JSON Schema can't say of a form."""
    return not isinstance(body, dict) or "" not in body.values()


@schemathesis.hook.apply_to(operation_id="getToken")
def filter_query(context, query):
    return not query or "" not in query.values()


@schemathesis.hook.apply_to(operation_id="changeWebhook")
def filter_body(context, body):
    """What a batch or a limit may leave out depends on what stands, which JSON Schema can't say."""
    if not isinstance(body, dict):
        return True
    parts = [("batch", "maxEvents"), ("rateLimit", "perSecond")]
    return all(not isinstance(body.get(part), dict) or key in body[part] for part, key in parts)


@schemathesis.auth(refresh_interval=None)
class Token:
    def get(self, case, context):
        tag = context.operation.definition.raw["tags"][0]
        return f"Bearer {BEARERS[tag]}" if tag in BEARERS else f"Basic {CLIENT}"

    def set(self, case, data, context):
        case.headers["Authorization"] = data
