// express-rate-limit: ten calls per second and client.
const express = require("express");
const { rateLimit } = require("express-rate-limit");

const app = express();
app.use(rateLimit({ windowMs: 1000, limit: 10, keyGenerator: (request) => request.get("x-api-key") }));
app.get("/", (request, response) => response.send("ok"));
app.listen(Number(process.argv[2]), "127.0.0.1").keepAliveTimeout = 60_000;
