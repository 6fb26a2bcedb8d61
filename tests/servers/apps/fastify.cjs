// @fastify/rate-limit: ten calls per second and client.
const fastify = require("fastify")({ keepAliveTimeout: 60_000 });

const client = (request) => request.headers["x-api-key"];
fastify.register(require("@fastify/rate-limit"), { max: 10, timeWindow: 1000, keyGenerator: client });
fastify.after(() => fastify.get("/", async () => "ok"));
fastify.listen({ host: "127.0.0.1", port: Number(process.argv[2]) });
