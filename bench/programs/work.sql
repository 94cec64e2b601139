create table item(id integer primary key, name text, class integer, price real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < @n)
	insert into item select i, 'item ' || (i * 7919 % @n), i * i % 97, i * 0.25 from n;
create index item_name on item(name);
create index item_class on item(class, price);
update item set price = price * 1.5 where class between 10 and 30;
select 'sum=' || printf('%016x', sum(x)) from (
	select count(*) * 3 as x from item where name like 'item 1%'
	union all select sum(a.id % 7) from item a join item b on a.name = 'item ' || b.id where b.class < 20
	union all select cast(sum(p) as integer) from (select max(price) as p from item group by class));
delete from item where class % 2 = 0;
