/** What was shown before stays while other parts of the same dispatch are fetched; nothing is shown of another one. */
export function kept(id: string) {
  return <T>(before: T | undefined, query: { readonly queryKey: readonly unknown[] } | undefined): T | undefined => (query?.queryKey[1] === id ? before : undefined);
}
