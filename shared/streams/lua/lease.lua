-- LEASE: take, renew or release a consumer's lease. Renewal is a compare and PEXPIRE: a SET would be refused
-- at maxmemory, and every lease would lapse.
-- ARGV: 'take'|'renew'|'release', group, name, value, ttl_ms, value of a holder known to be gone.
-- Returns {1} on success, else {0, the value held}.
local action, group, name, value, ttl_ms, gone = word(), word(), word(), word(), word(), word()
local key = LEASE_PREFIX .. group .. ':' .. name
local held = call('GET', key)
if action == 'take' then
  if held and held ~= value and held ~= gone then return { 0, held } end
  -- DEL is allowed at maxmemory, and once a script has written, the rest of it is too: else nobody could start
  -- who drains a full server.
  call('DEL', key)
  call('SET', key, value, 'PX', ttl_ms)
  call('SADD', LEASED_PREFIX .. group, name)
  return { 1 }
end
if held ~= value then return { 0, held or '' } end
if action == 'renew' then call('PEXPIRE', key, ttl_ms) else call('DEL', key) end
return { 1 }
