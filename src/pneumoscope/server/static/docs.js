"use strict";
// Swagger UI over the OpenAPI document, which is beside this page.
window.SwaggerUIBundle({
  url: new URL("openapi.json", window.location.href).pathname,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
