// What becomes of the index while somebody refreshes it, as the server tells.
import { useEffect, useState } from "../vendor/preact-htm.js";

/** {state, done, total, report, error, version}. version: grows when a refresh has ended. */
export const useIndexEvents = (server) => {
  const [told, setTold] = useState({ state: "idle", version: 0 });
  useEffect(() => {
    if (server !== "there") return undefined;
    const source = new EventSource("/api/events");
    source.addEventListener("index", (event) => {
      const now = JSON.parse(event.data);
      setTold((before) => ({
        ...now,
        version: before.version + (before.state === "refreshing" && now.state === "idle" ? 1 : 0),
      }));
    });
    // EventSource tries again by itself after a break; a refusal (no index, or too many tabs) ends it.
    return () => source.close();
  }, [server]);
  return told;
};
