import { layOut, type GraphColumns } from "./layout";

addEventListener("message", (message: MessageEvent<GraphColumns>) => postMessage(layOut(message.data)));
