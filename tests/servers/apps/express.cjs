// express-rate-limit: ten calls per second and client; and 40 per 4 s, told in each of its ways.
const express = require("express");
const { rateLimit } = require("express-rate-limit");

const keyGenerator = (request) => request.get("x-api-key");
const limit = (limit, windowMs, options) => rateLimit({ limit, windowMs, keyGenerator, ...options });
const draft = (standardHeaders) => ({ standardHeaders, legacyHeaders: false });

const app = express();
const answer = (request, response) => response.send("ok");
app.get("/", limit(10, 1_000), answer);
app.get("/legacy", limit(40, 4_000), answer);
app.get("/draft-6", limit(40, 4_000, draft("draft-6")), answer);
app.get("/draft-7", limit(40, 4_000, draft("draft-7")), answer);
app.get("/draft-8", limit(40, 4_000, draft("draft-8")), answer);
app.get("/two", limit(40, 4_000, draft("draft-8")), limit(60, 8_000, draft("draft-8")), answer);
app.listen(Number(process.argv[2]), "127.0.0.1").keepAliveTimeout = 60_000;
