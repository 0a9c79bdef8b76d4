// Keeps the page's files for visits without a network, and has the browser isolate the page where its server does not
// send the headers for it. Files whose address holds their version are taken from the cache; all others come from the
// network, and from the cache only when that does not answer.
const CACHE = "sparsefire";
const PATIENCE = 4000; // milliseconds that the network has
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};
const MOST_BYTES = 32 << 20; // of a file that is kept: a larger model is read in pieces, from its server

const home = new URL("./", self.location.href);
const isVersioned = (url) => url.searchParams.has("v") || url.pathname.startsWith(`${home.pathname}pyodide-`);

self.addEventListener("install", (event) => event.waitUntil(self.skipWaiting()));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const ours = url.origin === home.origin && url.pathname.startsWith(home.pathname);
  if (!ours || request.method !== "GET" || request.headers.has("Range")) return;
  event.respondWith((isVersioned(url) ? fromCache(request) : fromNetwork(request)).then(isolated));
});
self.addEventListener("message", (event) => {
  if (event.data.order === "keep") event.waitUntil(keep().then((result) => event.ports[0].postMessage(result)));
});

async function fromCache(request) {
  return (await caches.match(request)) ?? fetch(request);
}

async function fromNetwork(request) {
  const kept = await caches.match(request, { ignoreSearch: request.mode === "navigate" });
  if (!kept) return fetch(request);
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE, kept));
  const fresh = fetch(request).then((answer) => (answer.ok ? answer : kept), () => kept);
  return Promise.race([fresh, late]);
}

function isolated(answer) {
  if (answer.type === "opaque" || answer.status === 0 || answer.headers.has("Cross-Origin-Embedder-Policy")) return answer;
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  const { status, statusText } = answer;
  return new Response(answer.body, { status, statusText, headers });
}

/** Puts all of the page's files into the cache, and takes those of older versions out. */
async function keep() {
  try {
    const answer = await fetch("site.json", { cache: "no-cache" });
    if (!answer.ok) throw new Error(`site.json: the server answered ${answer.status}`);
    const cache = await caches.open(CACHE);
    const site = await answer.clone().json();
    await cache.put(new URL("site.json", home), answer);
    const wanted = wantedFiles(site);
    let bytes = 0;
    for (const [url, size] of wanted) {
      if (!(isVersioned(url) && (await cache.match(url)))) await put(cache, url);
      bytes += size;
    }
    const addresses = new Set([...wanted.map(([url]) => url.href), new URL("site.json", home).href]);
    for (const request of await cache.keys()) if (!addresses.has(request.url)) await cache.delete(request);
    return { bytes, whole: site.model.bytes <= MOST_BYTES };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}

/** Addresses, as the page asks for them, and sizes. */
function wantedFiles(site) {
  const asked = Object.fromEntries(
    [site.wheel, site.chat, site.model.path].filter(Boolean).map((path) => [path.split("?")[0], path]),
  );
  return Object.entries(site.bytes)
    .filter(([path, size]) => size <= MOST_BYTES && path !== "site.json")
    .map(([path, size]) => [new URL(path === "index.html" ? "./" : (asked[path] ?? path), home), size]);
}

async function put(cache, url) {
  const answer = await fetch(url, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${url.pathname}: the server answered ${answer.status}`);
  await cache.put(url, answer);
}
