// Verifies requests, one JSON object a line on standard input, with the official Standard Webhooks library. Each has id,
// timestamp, signature, body and secret. Exit code 1 if any isn't as signed.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// The library stands in target/official, beside the sources.
const require = createRequire(new URL("../../target/official/package.json", import.meta.url));
const { Webhook } = require("standardwebhooks");

let verified = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { id, timestamp, signature, body, secret } = JSON.parse(line);
  // What a subscription calls its signingSecret: whsec_ and the base64 of the secret's own bytes.
  const webhook = new Webhook("whsec_" + Buffer.from(secret).toString("base64"));
  webhook.verify(body, { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature });
  verified += 1;
}
console.log(`${verified} signatures verified`);
process.exit(verified > 0 ? 0 : 1);
