#!/usr/bin/env bash
# better-auth 1.7.25, rateLimit: { window: 2, max: 3 }. Needs Node and npm.
#
# Guess: three calls in each 2 s, by a fixed or a sliding window; a refusal says Retry-After.
# The count goes back to 0 only once no call was served for a whole window: each call that is served
# begins it anew. A client that stays well below the rate is refused all the same, while one that
# sends three at once and then waits is not. And what a refusal says is X-Retry-After.
# Seen: a call each 1.2 s, which is 1.7 in 2 s: the fourth is refused, and told X-Retry-After: 1. Then
# three at once each 2.1 s, which is 2.9 in 2 s, three times: all are served.
# For users: no steady rate above one call per window keeps clear of it. Space calls by a window, or
# send them in bursts. Look for X-Retry-After, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --ignore-scripts --no-audit --no-fund better-auth@1.7.25 >/dev/null
cat >program.mjs <<'PROGRAM'
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";

const auth = betterAuth({
  baseURL: "http://localhost",
  secret: "any that is long enough to be taken for one",
  database: memoryAdapter({ user: [], session: [], account: [], verification: [] }),
  rateLimit: { enabled: true, window: 2, max: 3 },
});
const ask = async (client) => {
  const headers = { "x-forwarded-for": client };
  const answer = await auth.handler(new Request("http://localhost/api/auth/ok", { headers }));
  const told = [...answer.headers].filter(([name]) => /retry|limit/.test(name)).flat();
  return [answer.status, ...told].join(" ");
};
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1_000 * seconds));

const steady = [], bursts = [];
for (let call = 0; call < 4; call++) {
  if (call) await pause(1.2);
  steady.push(await ask("10.0.0.1"));
}
for (let burst = 0; burst < 3; burst++) {
  if (burst) await pause(2.1);
  for (let call = 0; call < 3; call++) bursts.push(await ask("10.0.0.2"));
}
console.log(`steady: ${steady.join(", ")}`);
console.log(`bursts: ${bursts.join(", ")}`);
PROGRAM
node program.mjs >seen
cat seen
diff - seen <<'EXPECTED'
steady: 200, 200, 200, 429 x-retry-after 1
bursts: 200, 200, 200, 200, 200, 200, 200, 200, 200
EXPECTED
