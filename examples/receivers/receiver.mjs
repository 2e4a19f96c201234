// A receiver: verify, store, answer at once, work later.
//
//     npm install standardwebhooks
//     WEBHOOK_SECRET=… node receiver.mjs
//
// A request is answered with 2xx only once it is stored, so what was answered is never lost. It is stored as a file that
// is named by its `webhook-id` and made only if it isn't there, so what comes twice is stored once. A table with a unique
// key does the same.

import { link, mkdir, open, readFile, readdir, unlink, writeFile } from "node:fs/promises";
import http from "node:http";
import { randomUUID } from "node:crypto";
import { Webhook } from "standardwebhooks";

const PORT = Number(process.env.PORT ?? 9000);
const INBOX = process.env.INBOX ?? "inbox";
const BODY_BYTES_MAX = 2 * 1024 * 1024; // with batches: above the subscription's maxBytes
const RETRY_MS = 5000;

/** `whsec_…` as it is; the UUID of the field `secret` as the `whsec_…` that stands for the same key. */
function signingSecret(text) {
  return text.startsWith("whsec_") ? text : `whsec_${Buffer.from(text, "ascii").toString("base64")}`;
}

const webhook = new Webhook(signingSecret(process.env.WEBHOOK_SECRET));

/** Your own work. It may be slow, and it may be done once more after a crash. */
async function handle(webhookId, envelope) {
  console.log("handled", webhookId, envelope.data.analyticsEvent);
}

/** The raw bytes of the body; none if there are too many. */
async function readBody(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** True if it is stored now, false if it was already. Under its own name there is never half a file. */
async function store(webhookId, body) {
  const half = `${INBOX}/${randomUUID()}.half`;
  await writeFile(half, body, { flush: true });
  try {
    await link(half, `${INBOX}/${webhookId}.json`);
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  } finally {
    await unlink(half);
  }
  const folder = await open(INBOX);
  await folder.sync().finally(() => folder.close());
  return true;
}

async function receive(request, response) {
  const body = await readBody(request);
  if (body === undefined) return response.writeHead(413, { connection: "close" }).end();
  try {
    webhook.verify(body, request.headers);
  } catch {
    return response.writeHead(401).end();
  }
  const webhookId = request.headers["webhook-id"];
  if (!/^[0-9a-f-]{36}$/.test(webhookId)) return response.writeHead(400).end();
  await store(webhookId, body);
  response.writeHead(204).end();
  work();
}

let working = false;
let again = false;

/** Handles what is stored and isn't handled yet, one by one. */
async function work() {
  if (working) {
    again = true;
    return;
  }
  working = true;
  do {
    again = false;
    const files = new Set(await readdir(INBOX));
    for (const file of files) {
      const webhookId = file.slice(0, -".json".length);
      if (!file.endsWith(".json") || files.has(`${webhookId}.handled`)) continue;
      try {
        await handle(webhookId, JSON.parse(await readFile(`${INBOX}/${file}`, "utf8")));
        await writeFile(`${INBOX}/${webhookId}.handled`, "");
      } catch (error) {
        console.error("will try again:", webhookId, error);
        setTimeout(work, RETRY_MS);
      }
    }
  } while (again);
  working = false;
}

await mkdir(INBOX, { recursive: true });
work();
http
  .createServer((request, response) =>
    receive(request, response).catch((error) => {
      console.error(error);
      if (!response.headersSent) response.writeHead(500);
      response.end();
    }),
  )
  .listen(PORT, "127.0.0.1");
