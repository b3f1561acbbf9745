import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { logIn, Refused, sessionKey } from "./api/client";
import { client } from "./api/queries";
import { watch } from "./api/stream";
import { applyTheme } from "./components/theme";
import { makeRouter } from "./router";
import "./styles/tokens.css";
import "./styles/page.css";

applyTheme();

/** The link of `hpcflow ui` ends in `#CODE`, and a place may follow it; all addresses of the page begin with `#/`. */
async function redeem(): Promise<string | null> {
  const code = location.hash.slice(1).split("/", 1)[0];
  if (!code) return null;
  // The code is spent in any case: it must not stay in the history.
  history.replaceState(null, "", `${location.pathname}#${location.hash.slice(1 + code.length) || "/"}`);
  try {
    await logIn(code);
    return null;
  } catch (error) {
    return error instanceof Refused && sessionKey.get() === "" ? error.message : null;
  }
}

const root = createRoot(document.getElementById("page")!);
void redeem().then(() => {
  watch(new AbortController().signal);
  root.render(
    <StrictMode>
      <QueryClientProvider client={client}>
        <RouterProvider router={makeRouter(client)} />
      </QueryClientProvider>
    </StrictMode>,
  );
});
