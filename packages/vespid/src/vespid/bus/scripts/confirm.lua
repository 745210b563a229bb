-- now, request, org, executor -> handed
if not meta[1] then return handed end
handing_on(function() return settle(ARGV[2], ARGV[3], ARGV[4]) end, 8)
expire(8)
return handed
