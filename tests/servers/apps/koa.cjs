// koa-ratelimit: ten calls per second and client; and 40 per 4 s.
const Koa = require("koa");
const ratelimit = require("koa-ratelimit");

const id = (context) => context.get("x-api-key");
const limit = (max, duration) => ratelimit({ driver: "memory", db: new Map(), duration, max, id });
const limits = { "/": limit(10, 1_000), "/told": limit(40, 4_000) };

const app = new Koa();
app.use((context, next) => limits[context.path](context, next));
app.use((context) => (context.body = "ok"));
app.listen(Number(process.argv[2]), "127.0.0.1").keepAliveTimeout = 60_000;
