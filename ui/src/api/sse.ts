/** Server-sent events out of a stream of text: what EventSource does, for a request that carries our header. */

export interface ServerEvent {
  readonly id: string;
  readonly kind: string;
  readonly data: string;
}

/** Takes pieces as they come, cut anywhere, and returns the events that are whole by then. */
export class EventParser {
  private rest = "";

  feed(piece: string): ServerEvent[] {
    this.rest += piece.replaceAll("\r\n", "\n");
    const blocks = this.rest.split("\n\n");
    this.rest = blocks.pop() ?? "";
    return blocks.flatMap((block) => {
      const fields = new Map<string, string>();
      for (const line of block.split("\n")) {
        if (line.startsWith(":")) continue;
        const colon = line.indexOf(":");
        const name = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        fields.set(name, name === "data" && fields.has(name) ? `${fields.get(name)}\n${value}` : value);
      }
      const data = fields.get("data");
      return data === undefined ? [] : [{ id: fields.get("id") ?? "", kind: fields.get("event") ?? "message", data }];
    });
  }
}
