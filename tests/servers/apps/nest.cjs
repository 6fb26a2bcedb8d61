// @nestjs/throttler: ten calls per second and client; without decorators, which are TypeScript's.
require("reflect-metadata");
const { Controller, Get, Module } = require("@nestjs/common");
const { APP_GUARD, NestFactory } = require("@nestjs/core");
const { ThrottlerGuard, ThrottlerModule } = require("@nestjs/throttler");

class Answers {
  answer() {
    return "ok";
  }
}
Controller()(Answers);
Get()(Answers.prototype, "answer", Object.getOwnPropertyDescriptor(Answers.prototype, "answer"));

class App {}
const limit = { ttl: 1000, limit: 10, getTracker: (request) => request.headers["x-api-key"] };
Module({
  imports: [ThrottlerModule.forRoot([limit])],
  controllers: [Answers],
  providers: [{ provide: APP_GUARD, useClass: ThrottlerGuard }],
})(App);

NestFactory.create(App, { logger: ["error"] }).then(async (app) => {
  app.getHttpServer().keepAliveTimeout = 60_000;
  await app.listen(Number(process.argv[2]), "127.0.0.1");
});
