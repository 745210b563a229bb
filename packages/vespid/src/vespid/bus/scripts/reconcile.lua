-- now, life to begin if it is the one that was prepared and not lost since ('' begins none), number of leaks,
-- then pairs of leaks: request, when it was last confirmed; then triples of leased rows: request, org, executor
-- -> generation (or false), handed
local leaks = tonumber(ARGV[3])
local first_row = 4 + 2 * leaks
handing_on(function()
  local freed = {}
  for i = 4, first_row - 1, 2 do
    local record = find(ARGV[i])
    if record and record[STATE] == 'c' and record[AT] == ARGV[i + 1] then
      give_back(ARGV[i], record)
      forget_ask(ARGV[i], record)
      freed[#freed + 1] = record[X]
    end
  end
  for i = first_row, #ARGV, 3 do
    for _, x in ipairs(settle(ARGV[i], ARGV[i + 1], ARGV[i + 2])) do freed[#freed + 1] = x end
  end
  return freed
end, 64)
if ARGV[2] ~= '' and call('HGET', KEYS[1], 'next') == ARGV[2] then call('HSETNX', KEYS[1], 'gen', ARGV[2]) end
return { call('HGET', KEYS[1], 'gen'), handed }
