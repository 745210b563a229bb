drop function vespid_decide_approval;
drop function vespid_i_role_of;
drop function vespid_i_end_approval;
drop function vespid_i_withdraw_approvals;
drop function vespid_i_ask_people;
drop table approvals;
