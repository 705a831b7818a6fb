from __future__ import annotations
import io
from relayd.mail.message import new_id
from relayd.spool.notes import Noted
from tests.simulation.queue import MemoryQueue
from tests.simulation.tables import Tables

class Disk:
    def __init__(self, directory):
        self.tables = Tables(); self.bodies = {}; self.notes = []; self.directory = directory

class Notes:
    def __init__(self): self.begun=set(); self.ended=set()
    def beginning(self, lease, i): self.begun.add((lease,i))
    def ending(self, lease, i): self.begun.add((lease,i)); self.ended.add((lease,i))

class Bodies:
    def __init__(self, disk): self._d=disk
    async def read(self, deliveries): return [self._d.bodies[d.id] for d in deliveries]
    async def chunks(self, message_id):
        c=self._d.bodies[message_id]
        for i in range(0,len(c),4096): yield c[i:i+4096]
    def scratch(self): return io.BytesIO()

class MemorySpool:
    unfinished=False
    def __init__(self, disk, owner, queue, notes, taken_over):
        self.disk=disk; self.owner=owner; self.queue=queue; self.notes=notes; self.taken_over=taken_over
        self.bodies=Bodies(disk); self.dead=False; self._uncommitted=[]
    @classmethod
    async def open(cls, disk, *, now, owner, new_notice_id, faults, events):
        noted=Noted(begun=frozenset().union(*(n.begun for n in disk.notes)), ending=frozenset().union(*(n.ended for n in disk.notes)))
        notes=Notes(); 
        q=MemoryQueue(disk.tables, owner=owner, new_notice_id=new_notice_id, faults=faults, events=events)
        t=await q.take_over(now, noted)
        for i in await q.unmade(): disk.bodies.pop(i,None)
        disk.notes[:]=[notes]
        return cls(disk, owner, q, notes, t)
    def abandon(self): self.queue.abandon(); self.dead=True
    async def close(self): await self.queue.close()
    async def accept(self, subs):
        done=[]
        done+=await self._commit()
        for s in subs:
            c=self.disk.directory.files.pop(s.file,None)
            if c is None: continue
            self.disk.bodies[s.message.id]=c
            self._uncommitted.append(s)
        done+=await self._commit()
        return done
    async def _commit(self):
        if not self._uncommitted: return []
        await self.queue.add([s.message for s in self._uncommitted])
        r=self._uncommitted; self._uncommitted=[]
        return r
    @property
    def unfinished(self): return bool(self._uncommitted)
    async def sweep(self, now):
        while f:=await self.queue.finished_bodies(now,500):
            for i in f: self.disk.bodies.pop(i,None)
            await self.queue.bodies_gone(f)
            if len(f)<500: break
    async def orphans(self):
        ids=sorted(self.disk.bodies)
        s=await self.queue.strays([i for i in ids if i not in {x.message.id for x in self._uncommitted}])
        yield [(i,i) for i in s.orphans]
    async def adopt(self, message): await self.queue.add([message])
    async def reject(self, i, reason): raise AssertionError(reason)
    async def add_notification(self, message, content):
        self.disk.bodies[message.id]=content
        await self.queue.add([message])
    async def read_original(self, i, limit):
        try: return self.disk.bodies[i][:limit]
        except KeyError: raise FileNotFoundError(i)
