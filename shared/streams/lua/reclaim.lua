-- RECLAIM (janitor): entries of consumers that are gone move to the pool, delivery counts kept.
-- Gone: no lease, and it had one once; a foreign consumer never had one, and is judged by its idle time.
-- ARGV: stage, foreign_idle_ms, most. Returns {moved, ids whose body is gone…}.
local stage, foreign_idle_ms, most = word(), number(), number()
local stream, group = STREAM[stage], GROUP[stage]
local reply = { 0 }
if call('EXISTS', stream) == 0 then return reply end
for _, info in ipairs(call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = named(info)
  local name = consumer['name']
  if consumer['pending'] > 0 and name ~= RECLAIMED and call('EXISTS', LEASE_PREFIX .. group .. ':' .. name) == 0
    and (call('SISMEMBER', LEASED_PREFIX .. group, name) == 1 or consumer['idle'] >= foreign_idle_ms) then
    for _, entry in ipairs(call('XPENDING', stream, group, '-', '+', most, name)) do
      local id = entry[1]
      local fields = body(stage, id)
      local ours = call('HEXISTS', OPEN[stage], id) == 1
      if fields and (ours or is_foreign(fields)) then
        call('XCLAIM', stream, group, RECLAIMED, 0, id, 'JUSTID')
        reply[1] = reply[1] + 1
      elseif ours then
        table.insert(reply, id)
      else
        call('XACK', stream, group, id)
      end
    end
  end
end
return reply
