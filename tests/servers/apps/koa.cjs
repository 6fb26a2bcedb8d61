// koa-ratelimit: ten calls per second and client.
const Koa = require("koa");
const ratelimit = require("koa-ratelimit");

const app = new Koa();
const id = (context) => context.get("x-api-key");
app.use(ratelimit({ driver: "memory", db: new Map(), duration: 1000, max: 10, id }));
app.use((context) => (context.body = "ok"));
app.listen(Number(process.argv[2]), "127.0.0.1").keepAliveTimeout = 60_000;
