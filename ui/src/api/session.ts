import { answer, api, link, sessionKey } from "./client";
import { client } from "./queries";

/** Ends this browser's session, and forgets what it showed. */
export async function logOut(): Promise<void> {
  try {
    await answer(api.POST("/logout"));
  } finally {
    sessionKey.drop();
    client.clear();
    link.set("login");
  }
}
