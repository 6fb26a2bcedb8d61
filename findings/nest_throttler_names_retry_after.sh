#!/usr/bin/env bash
# @nestjs/throttler 6.7.1 with named limits, as its documentation shows them. Needs Node and npm.
#
# Guess: a refusal says Retry-After, as with one limit without a name, beside the X-RateLimit headers.
# With a name, each header has it at its end: Retry-After-short. There is no Retry-After, so that no
# client that knows the standard alone waits at all. A refusal has no X-RateLimit headers, of neither
# limit.
# Seen: three calls a second, named short, and twenty a minute, named long: three answers that were
# served, with the numbers of both, and a refusal.
# For users: take Retry-After-NAME for Retry-After.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --ignore-scripts --no-audit --no-fund @nestjs/throttler@6.7.1 @nestjs/core@11.2.10 \
    @nestjs/common@11.2.10 @nestjs/platform-express@11.2.10 reflect-metadata@0.2.2 rxjs@7.8.2 >/dev/null
cat >program.cjs <<'PROGRAM'
require("reflect-metadata");
const { Controller, Get, Module } = require("@nestjs/common");
const { APP_GUARD, NestFactory } = require("@nestjs/core");
const { ThrottlerGuard, ThrottlerModule } = require("@nestjs/throttler");

class Answers {
  answer() {
    return "ok";
  }
}
Get()(Answers.prototype, "answer", Object.getOwnPropertyDescriptor(Answers.prototype, "answer"));
Controller()(Answers);
const limits = [
  { name: "short", ttl: 1_000, limit: 3 },
  { name: "long", ttl: 60_000, limit: 20 },
];
class App {}
Module({
  imports: [ThrottlerModule.forRoot(limits)],
  controllers: [Answers],
  providers: [{ provide: APP_GUARD, useClass: ThrottlerGuard }],
})(App);

NestFactory.create(App, { logger: false }).then(async (app) => {
  await app.listen(0, "127.0.0.1");
  for (let call = 0; call < 4; call++) {
    const answer = await fetch(await app.getUrl());
    const told = [...answer.headers].filter(([name]) => /retry|remaining/.test(name)).flat();
    console.log(answer.status, ...told);
  }
  process.exit(0);
});
PROGRAM
node program.cjs | tee seen
diff - seen <<'EXPECTED'
200 x-ratelimit-remaining-long 19 x-ratelimit-remaining-short 2
200 x-ratelimit-remaining-long 18 x-ratelimit-remaining-short 1
200 x-ratelimit-remaining-long 17 x-ratelimit-remaining-short 0
429 retry-after-short 1
EXPECTED
