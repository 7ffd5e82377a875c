// Microsoft's own SignalR client for JavaScript, taken through one visit to the simulator.
//
//   node client.mjs <hub url> <key> <callbacks to wait for, with commas between>
//
// It prints one JSON line for each thing that it sees; the test that started it decides what is right.
import { HttpTransportType, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";

const [url, key, callbacks] = process.argv.slice(2);
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");

const connection = new HubConnectionBuilder()
  .withUrl(url, { accessTokenFactory: () => key, transport: HttpTransportType.WebSockets })
  .configureLogging(LogLevel.None)
  .build();

const closed = new Promise((resolve) => connection.onclose((error) => resolve(error ? error.message : null)));
const missing = new Set(callbacks.split(","));
const all = new Promise((resolve) => {
  for (const callback of [...missing]) {
    connection.on(callback, (payload) => {
      say({ callback, payload });
      missing.delete(callback);
      if (missing.size === 0) resolve();
    });
  }
});

await connection.start();
say({ subscribed: await connection.invoke("SubscribeToStrategies", { Strategies: null }) });
await all;

let token = null;
do {
  const page = await connection.invoke("GetEventsSince", { SinceEventSeqId: 0, Limit: 5, ContinuationToken: token });
  say({ page });
  token = page.data.continuationToken;
} while (token);

say({ error: await connection.invoke("GetLatestEventSeqId", {}).then(() => null, (error) => error.message) });
say({ refused: await connection.invoke("GetLatestEventSeqId", {}) });
say({ latest: await connection.invoke("GetLatestEventSeqId", {}) });
say({ closed: await closed });
process.exit(0);
