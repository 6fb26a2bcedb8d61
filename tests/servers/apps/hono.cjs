// hono-rate-limiter: 40 calls per 4 s and client, told in each of its ways.
const { serve } = require("@hono/node-server");
const { Hono } = require("hono");
const { rateLimiter } = require("hono-rate-limiter");

const keyGenerator = (context) => context.req.header("x-api-key");
const app = new Hono();
for (const standardHeaders of ["draft-6", "draft-7"]) {
  const limit = rateLimiter({ windowMs: 4_000, limit: 40, standardHeaders, keyGenerator });
  app.get(`/${standardHeaders}`, limit, (context) => context.text("ok"));
}
serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(process.argv[2]) }).keepAliveTimeout = 60_000;
