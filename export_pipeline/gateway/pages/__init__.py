"""The pages for people: the API's functions, asked by forms and shown as HTML. They hold no rules of their own."""

from export_pipeline.gateway.pages import asking, backups, exports, login, usage

ROUTERS = (login.router, exports.router, asking.router, backups.router, usage.router)
