import http from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET); // whsec_…

http
  .createServer(async (request, response) => {
    try {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const body = Buffer.concat(chunks); // the raw bytes
      const envelope = webhook.verify(body, request.headers);
      console.log(request.headers["webhook-id"], envelope.data.analyticsEvent);
      response.writeHead(204).end();
    } catch {
      response.writeHead(401).end();
    }
  })
  .listen(Number(process.env.PORT ?? 9000), "127.0.0.1");
