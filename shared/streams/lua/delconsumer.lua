-- DELCONSUMER (janitor): forget a consumer that holds nothing and has no lease, checked here: deleting one
-- deletes its pending entries. ARGV: stage, name, min_idle_ms. Returns 1 if it was deleted.
local stage, name, min_idle_ms = word(), word(), number()
local stream, group = STREAM[stage], GROUP[stage]
if name == RECLAIMED or call('EXISTS', LEASE_PREFIX .. group .. ':' .. name) == 1 then return 0 end
for _, reply in ipairs(call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = named(reply)
  if consumer['name'] == name and consumer['pending'] == 0 and consumer['idle'] >= min_idle_ms then
    call('XGROUP', 'DELCONSUMER', stream, group, name)
    call('SREM', LEASED_PREFIX .. group, name)
    return 1
  end
end
return 0
