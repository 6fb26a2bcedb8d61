// @nestjs/throttler: ten calls per second and client, and 40 per 4 s; without decorators, which are
// TypeScript's.
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
}
const decorate = (method, ...decorators) => {
  const descriptor = Object.getOwnPropertyDescriptor(Answers.prototype, method);
  decorators.forEach((each) => each(Answers.prototype, method, descriptor));
};
Controller()(Answers);
decorate("answer", Get());
decorate("told", Get("told"), Throttle({ default: { ttl: 4_000, limit: 40 } }));

class App {}
const limit = { ttl: 1_000, limit: 10, getTracker: (request) => request.headers["x-api-key"] };
Module({
  imports: [ThrottlerModule.forRoot([limit])],
  controllers: [Answers],
  providers: [{ provide: APP_GUARD, useClass: ThrottlerGuard }],
})(App);

NestFactory.create(App, { logger: ["error"] }).then(async (app) => {
  app.getHttpServer().keepAliveTimeout = 60_000;
  await app.listen(Number(process.argv[2]), "127.0.0.1");
});
