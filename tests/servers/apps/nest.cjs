// @nestjs/throttler: ten calls per second and client, and 40 per 4 s, also by name beside another;
// without decorators, which are TypeScript's.
require("reflect-metadata");
const { Controller, Get, Module } = require("@nestjs/common");
const { APP_GUARD, NestFactory } = require("@nestjs/core");
const { Throttle, ThrottlerGuard, ThrottlerModule } = require("@nestjs/throttler");

class Answers {
  answer() {
    return "ok";
  }
  told() {
    return "ok";
  }
  named() {
    return "ok";
  }
}
const decorate = (method, ...decorators) => {
  const descriptor = Object.getOwnPropertyDescriptor(Answers.prototype, method);
  decorators.forEach((each) => each(Answers.prototype, method, descriptor));
};
Controller()(Answers);
decorate("answer", Get());
decorate("told", Get("told"), Throttle({ default: { ttl: 4_000, limit: 40 } }));
decorate("named", Get("named"));

class App {}
const getTracker = (request) => request.headers["x-api-key"];
const isNamed = (context) => context.switchToHttp().getRequest().path === "/named";
const isPlain = (context) => !isNamed(context);
const limits = [
  { ttl: 1_000, limit: 10, getTracker, skipIf: isNamed },
  { name: "short", ttl: 4_000, limit: 40, getTracker, skipIf: isPlain },
  { name: "long", ttl: 8_000, limit: 60, getTracker, skipIf: isPlain },
];
Module({
  imports: [ThrottlerModule.forRoot(limits)],
  controllers: [Answers],
  providers: [{ provide: APP_GUARD, useClass: ThrottlerGuard }],
})(App);

NestFactory.create(App, { logger: ["error"] }).then(async (app) => {
  app.getHttpServer().keepAliveTimeout = 60_000;
  await app.listen(Number(process.argv[2]), "127.0.0.1");
});
