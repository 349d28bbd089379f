-- SETTLE_CLEAN (clean → PostgreSQL, after COMMIT): the same fence, then the figures of the transaction.
-- ARGV: entries, then for each: id, foreign (0|1), events, loaded, duplicates, unrouted, dead letters…
-- Returns settled (0|1) for each entry.
local entries = {}
for i = 1, number() do
  local entry = { id = word(), foreign = word() == '1', events = number() }
  entry.loaded, entry.duplicates, entry.unrouted, entry.dead = number(), number(), number(), lists()
  if entry.loaded + entry.duplicates + entry.unrouted + #entry.dead ~= entry.events then
    return redis.error_reply('UNBALANCED ' .. entry.id .. ': outcomes do not add up to ' .. entry.events)
  end
  entries[i] = entry
end

check_streams(CLEAN, DEAD)
check_hashes(LEDGER)
local reply = {}
for i, entry in ipairs(entries) do
  local events = fence('clean', entry.id, entry.foreign)
  reply[i] = events and 1 or 0
  if events then
    ensure_epoch()
    for _, fields in ipairs(entry.dead) do call('XADD', DEAD, '*', unpack(fields)) end
    count('loaded', entry.loaded)
    count('duplicates', entry.duplicates)
    count('unrouted', entry.unrouted)
    count('dead.loader', #entry.dead)
  end
end
return reply
