-- HOLD: entries in hand wait for a server that is away. One delivery is taken back, so that dying while
-- holding blames nobody. Entries that have gone to somebody else are left alone.
-- ARGV: stage, consumer, then id and deliveries of each entry. Returns nothing.
local stage, me = word(), word()
for i = 3, #ARGV, 2 do
  local pending = call('XPENDING', STREAM[stage], GROUP[stage], ARGV[i], ARGV[i], 1)
  if #pending == 1 and pending[1][2] == me and body(stage, ARGV[i]) then
    local deliveries = math.max(tonumber(ARGV[i + 1]) - 1, 0)
    call('XCLAIM', STREAM[stage], GROUP[stage], me, 0, ARGV[i], 'RETRYCOUNT', deliveries, 'JUSTID')
  end
end
