// Caches the page's files, so that it works offline, and adds the headers of cross-origin isolation where the server does
// not send them. Files with a version in their address are served from the cache, all others from the network, or from
// the cache when the network does not answer in time.
importScripts("isolation.js"); // defines ISOLATION; page/site.py generates it from the headers that its server sends
const CACHE = "sparsefire";
const TIMEOUT = 4000; // milliseconds for the network to answer
const MAX_BYTES = 32 << 20; // of a cached model: a larger one is read in chunks from the server

const base = new URL("./", self.location.href);
const isVersioned = (url) => url.searchParams.has("v") || url.pathname.startsWith(`${base.pathname}pyodide-`);

self.addEventListener("install", (event) => event.waitUntil(self.skipWaiting()));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const isOwn = url.origin === base.origin && url.pathname.startsWith(base.pathname);
  if (!isOwn || request.method !== "GET" || request.headers.has("Range")) return;
  event.respondWith((isVersioned(url) ? fromCache(request) : fromNetwork(request)).then(withIsolation));
});
self.addEventListener("message", (event) => {
  if (event.data.type === "cache") event.waitUntil(cacheFiles().then((result) => event.ports[0].postMessage(result)));
});

async function fromCache(request) {
  return (await caches.match(request)) ?? fetch(request);
}

async function fromNetwork(request) {
  const cached = await caches.match(request, { ignoreSearch: request.mode === "navigate" });
  if (!cached) return fetch(request);
  const late = new Promise((resolve) => setTimeout(resolve, TIMEOUT, cached));
  const fresh = fetch(request).then((answer) => (answer.ok ? answer : cached), () => cached);
  return Promise.race([fresh, late]);
}

function withIsolation(answer) {
  if (answer.type === "opaque" || answer.status === 0 || answer.headers.has("Cross-Origin-Embedder-Policy")) return answer;
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  const { status, statusText } = answer;
  return new Response(answer.body, { status, statusText, headers });
}

/** Caches all files of the page and removes those of older versions. */
async function cacheFiles() {
  try {
    const answer = await fetch("site.json", { cache: "no-cache" });
    if (!answer.ok) throw new Error(`site.json: the server answered ${answer.status}`);
    const cache = await caches.open(CACHE);
    const site = await answer.clone().json();
    await cache.put(new URL("site.json", base), answer);
    const wanted = wantedFiles(site);
    let bytes = 0;
    for (const [url, size] of wanted) {
      if (!(isVersioned(url) && (await cache.match(url)))) await put(cache, url);
      bytes += size;
    }
    const addresses = new Set([...wanted.map(([url]) => url.href), new URL("site.json", base).href]);
    for (const request of await cache.keys()) if (!addresses.has(request.url)) await cache.delete(request);
    return { bytes, complete: site.model.bytes <= MAX_BYTES };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}

/** Addresses, as the page requests them, and sizes. */
function wantedFiles(site) {
  const requested = Object.fromEntries(
    [site.wheel, site.chat, site.calibration, ...site.model.files].filter(Boolean).map((path) => [path.split("?")[0], path]),
  );
  const tooLarge = site.model.bytes > MAX_BYTES ? site.model.files.map((path) => path.split("?")[0]) : [];
  return Object.entries(site.bytes)
    .filter(([path]) => !tooLarge.includes(path) && path !== "site.json")
    .map(([path, size]) => [new URL(path === "index.html" ? "./" : (requested[path] ?? path), base), size]);
}

async function put(cache, url) {
  const answer = await fetch(url, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${url.pathname}: the server answered ${answer.status}`);
  await cache.put(url, answer);
}
