// rate-limiter-flexible, in memory: ten calls per second and client.
const http = require("node:http");
const { RateLimiterMemory } = require("rate-limiter-flexible");

const limiter = new RateLimiterMemory({ points: 10, duration: 1 });
const server = http.createServer(async (request, response) => {
  try {
    await limiter.consume(request.headers["x-api-key"]);
    response.end("ok");
  } catch {
    response.statusCode = 429; // and no writeHead(), so that Node says how long the answer is
    response.end("no");
  }
});
server.listen(Number(process.argv[2]), "127.0.0.1").keepAliveTimeout = 60_000;
