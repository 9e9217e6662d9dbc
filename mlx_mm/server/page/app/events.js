// What becomes of the index while somebody refreshes it, as the server tells.
import { useEffect, useState } from "../vendor/preact-htm.js";

/** {state, done, total, report, error, version}. version: grows when a refresh has ended. */
export const useIndexEvents = (server) => {
  const [told, setTold] = useState({ state: "idle", version: 0 });
  useEffect(() => {
    if (server !== "there") return undefined;
    let source = null;
    const hear = (event) => {
      const now = JSON.parse(event.data);
      setTold((before) => ({
        ...now,
        version: before.version + (before.state === "refreshing" && now.state === "idle" ? 1 : 0),
      }));
    };
    // A browser has six connections to a server, for all tabs: one that nobody sees needs none.
    const listen = () => {
      source?.close();
      source = document.hidden ? null : new EventSource("/api/events");
      source?.addEventListener("index", hear);
    };
    listen();
    document.addEventListener("visibilitychange", listen);
    return () => {
      document.removeEventListener("visibilitychange", listen);
      source?.close();
    };
  }, [server]);
  return told;
};
