// @fastify/rate-limit: ten calls per second and client; and 40 per 4 s, also with a ban.
const fastify = require("fastify")({ keepAliveTimeout: 60_000 });

const keyGenerator = (request) => request.headers["x-api-key"];
const limits = {
  "/": { max: 10, timeWindow: 1_000 },
  "/told": { max: 40, timeWindow: 4_000 },
  "/ban": { max: 40, timeWindow: 4_000, ban: 1 },
};
fastify.register(require("@fastify/rate-limit"), { global: false, keyGenerator });
fastify.after(() => {
  for (const [path, rateLimit] of Object.entries(limits)) {
    fastify.get(path, { config: { rateLimit } }, async () => "ok");
  }
});
fastify.listen({ host: "127.0.0.1", port: Number(process.argv[2]) });
