// The worker that stores models and conversations, started on first use.
import { Client } from "./requests.js";

let client = null;

export function openStore() {
  client ??= new Client("store_worker.js");
  return client;
}
