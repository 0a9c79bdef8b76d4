// Reports a page that cannot start. A classic script in the language of old browsers, since the modules may not even
// parse there: it names the features that are missing, and whatever goes wrong before the engine has started.
(function () {
  "use strict";
  var root = document.documentElement;

  // A module with one function, which returns i8x16.splat(0).
  var SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

  // Feature: whether the browser has it. Optional features are in capabilities.js.
  var REQUIRED = {
    "JavaScript modules": "noModule" in document.createElement("script"),
    Workers: "Worker" in window,
    WebAssembly: "WebAssembly" in window,
    "WebAssembly SIMD": "WebAssembly" in window && WebAssembly.validate(new Uint8Array(SIMD)),
  };
  var missing = Object.keys(REQUIRED).filter(function (name) {
    return !REQUIRED[name];
  });

  var lacks = "This browser lacks " + missing.join(", ") + ", which the page requires: update it, or use another one.";

  function whenParsed(run) {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", run);
    else run();
  }

  /** Shows why the page does not start; app.js then leaves it alone. */
  function fail(text) {
    if (root.getAttribute("data-state") !== "starting") return;
    root.setAttribute("data-state", "failed");
    whenParsed(function () {
      document.getElementById("model-name").textContent = "Not running";
      document.getElementById("progress-text").textContent = "";
      document.getElementById("progress-box").setAttribute("data-idle", "");
      document.getElementById("go").disabled = true;
      document.getElementById("problem-text").textContent = text;
      document.getElementById("problem").hidden = false;
    });
  }

  function couldNotStart(reason) {
    fail("The page could not start: " + reason + ". Reload it, or try another browser.");
  }

  if (missing.length) fail(lacks);
  // In the capture phase, since errors of scripts that do not load do not bubble.
  addEventListener("error", function (event) {
    if (event.target instanceof HTMLScriptElement) couldNotStart("one of its scripts did not load");
    else if (event.message) couldNotStart(event.message);
  }, true);
  addEventListener("submit", function (event) {
    if (root.getAttribute("data-state") === "failed") event.preventDefault(); // nothing handles the forms
  }, true);
  addEventListener("unhandledrejection", function (event) {
    couldNotStart((event.reason && event.reason.message) || String(event.reason));
  });
})();
