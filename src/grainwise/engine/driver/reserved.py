"""Calls and actors that take more than CPUs: GPUs, custom resources, memory, a place in a placement group.

    submit ──► spec.open ──dispatch──► waiting ── admit ──► a Lease, and a worker of its own for this call
                                         ▲                      │
                                         └──── look again ◄── release: the call has ended, or its process

The policy counts CPUs only. A spec whose calls need more (`TaskSpec.needs`) never comes before it: its calls
are admitted one by one by the books in `ledger`, and each gets a *specialist*: a worker that the policy does
not know, as an actor's process is one. Where nobody asks for such things, the price is one look at a flag.

CPUs are the policy's all the same. Who needs some reserves them there. If ordinary tasks are in the way, one
waiter at a time may put in a *claim*: the policy counts its CPUs as taken, sends no more behind what runs,
and the waiter starts when so many are really free; soon what has not begun is taken back as well. Only what
ends by itself may be waited for like that: where actors, groups or other specialists have the CPUs, ordinary
tasks go on.

Nobody who waits stands in the way of others: each look goes through all of them. A call that waits for others
lends its CPUs, and keeps the rest.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from time import monotonic

from ...errors import GrainwiseError, WorkerStartError
from ...grain.policy import Send
from ..needs import UNIT, infeasible, to_units, told, with_cpus
from ..wire.tasks import EQUIP, EXIT, Call, TaskSpec
from . import crash
from .groups import CREATED, REMOVED, Group, Groups, removed_error
from .ledger import Grant, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from ..needs import Needs
    from ..processes.pool import WorkerHandle
    from .actor import Actor
    from .engine import Engine
    from .environment import Environment

    Reuse: TypeAlias = "tuple[int, tuple[int, ...], int, Environment | None]"

MAX_SPECIALISTS = 256
"""So many may run at once, those that wait for others not counted."""
IDLE_S = 1.0
"""A specialist without work ends after so long."""
ITEMS_S = 20e-3
MAX_ITEMS = 8192
"""Of a run so many go out together, or what takes so long."""
NEVER = 1 << 62
PATIENCE_S = 10e-3
"""A claim that has waited so long takes back what is behind running tasks."""
EPSILON = 1e-9


class Lease:
    """What a call, an actor or a group has.

    Attributes:
        grants: what of which pool.
        num_cpus: the policy's CPUs among it; 0 for one in a group, whose grant has them.
        needs: what was asked for; None for a group.
        all_cpus: CPUs that it has, wherever from.
        group, bundle: where it is.
        reuse: who else may have its process afterwards; None for nobody.
    """

    __slots__ = ("all_cpus", "bundle", "grants", "group", "is_lending", "needs", "num_cpus", "reuse")

    def __init__(self, grants: list[Grant], num_cpus: float, needs: Needs | None) -> None:
        self.grants = grants
        self.num_cpus = self.all_cpus = num_cpus
        self.needs = needs
        self.group: Group | None = None
        self.bundle = -1
        self.is_lending = False
        self.reuse: Reuse | None = None

    def gpus(self) -> list[int]:
        """Return the GPUs that it has, or has a part of."""
        return sorted({index for grant in self.grants for index in grant.gpus})

    def limit_bytes(self) -> int:
        """Return what its process may take of the memory, 0 for any amount."""
        return dict(self.needs[0]).get("memory", 0) // UNIT if self.needs is not None else 0


class Reserved:
    """See the module docstring.

    Attributes:
        node: what the machine has, CPUs left out.
        groups: the placement groups.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        settings = engine.settings
        totals = {name: to_units(amount) for name, amount in settings.totals().items() if name != "CPU"}
        self.node = Pool(totals, dict.fromkeys(range(len(settings.gpu_ids)), UNIT))
        self.groups = Groups(self)
        self._waiting: dict[TaskSpec, None] = {}
        self._idle: dict[WorkerHandle, Reuse] = {}
        self._outdated: set[WorkerHandle] = set()
        self._num_running = 0
        self._leased_cpus = 0.0
        self._claim: tuple[Any, Lease] | None = None
        self._claimed_at = 0.0

    # -- what there is ---------------------------------------------------------------------------------

    def totals(self) -> dict[str, int]:
        """Return what the machine has, in ten-thousandths."""
        return {"CPU": to_units(self.engine.settings.num_cpus), **self.node.totals}

    def available(self) -> dict[str, float]:
        """Return what nobody has."""
        policy = self.engine.dispatcher.policy
        claimed = self._claim[1].num_cpus if self._claim is not None else 0.0
        cpus = policy.num_cpus - policy.cpus_in_use() + claimed
        return {"CPU": max(0.0, round(cpus, 4)), **told(self.node.free.items())}

    def check_feasible(self, num_cpus: float, needs: Needs, what: str) -> None:
        """Refuse what can never be had.

        Raises:
            InfeasibleTaskError: it asks for more than the machine, or its group, has.
        """
        if needs[1] and self.groups.find(needs[1]) is not None:
            self.groups.check(num_cpus, needs, what)
            return
        totals = self.engine.settings.totals()
        for name, units in with_cpus(needs[0], num_cpus):
            if units > to_units(totals.get(name, 0.0)):
                raise infeasible(what, name, units, totals)

    # -- taking and giving back ------------------------------------------------------------------------

    def admit(self, waiter: Any, num_cpus: float, needs: Needs) -> Lease | None:
        """Return what a call or an actor needs, None if it is not all free now; it asks again then.

        Args:
            waiter: who asks, the same each time.
            num_cpus: CPUs.
            needs: the rest.
        """
        if self._claim is not None and self._claim[0] is waiter:
            return self._redeem()
        if needs[1]:
            group = self.groups.find(needs[1])
            return None if group is None else self._admit_in(group, num_cpus, needs)
        grant = self.node.take(needs[0])
        return None if grant is None else self._with_cpus(waiter, Lease([grant], num_cpus, needs))

    def _admit_in(self, group: Group, num_cpus: float, needs: Needs) -> Lease | None:
        if group.state != CREATED:
            return None
        for index, pool in enumerate(group.pools):
            grant = pool.take(with_cpus(needs[0], num_cpus)) if needs[2] in (-1, index) else None
            if grant is not None:
                lease = Lease([grant], 0.0, needs)
                lease.all_cpus, lease.group, lease.bundle = num_cpus, group, index
                group.num_leases += 1
                return lease
        return None

    def admit_group(self, group: Group) -> Lease | None:
        """Return all that a group needs, one grant for each bundle; None if it is not all free now."""
        if self._claim is not None and self._claim[0] is group:
            return self._redeem()
        grants: list[Grant] = []
        for bundle in group.bundles:
            grant = self.node.take(tuple(each for each in bundle if each[0] != "CPU"))
            if grant is None:
                self._give(grants)
                return None
            grants.append(grant)
        return self._with_cpus(group, Lease(grants, group.num_cpus(), None))

    def _with_cpus(self, waiter: Any, lease: Lease) -> Lease | None:
        """Take a lease's CPUs as well, or claim them, or give the lease back."""
        policy, cpus = self.engine.dispatcher.policy, lease.num_cpus
        if not cpus:
            return lease
        if policy.cpus_in_use() + cpus <= policy.num_cpus + EPSILON:
            self._reserve(cpus)
            return lease
        if self._claim is None and self._leased_cpus + cpus <= policy.num_cpus + EPSILON:
            self._reserve(cpus)
            policy.hold_back(True)
            self._claim = (waiter, lease)
            self._claimed_at = monotonic()
            return None
        self._give(lease.grants)
        return None

    def _redeem(self) -> Lease | None:
        policy = self.engine.dispatcher.policy
        if self._claim is None or policy.cpus_in_use() > policy.num_cpus + EPSILON:
            return None
        lease = self._claim[1]
        self._claim = None
        policy.hold_back(False)
        return lease

    def is_next(self, waiter: Any) -> bool:
        """Say whether a waiter has put in the claim."""
        return self._claim is not None and self._claim[0] is waiter

    def withdraw(self, waiter: Any) -> None:
        """Drop the claim of a waiter that wants nothing any more."""
        if self._claim is not None and self._claim[0] is waiter:
            lease = self._claim[1]
            self._claim = None
            self.engine.dispatcher.policy.hold_back(False)
            self.release(lease)

    def _reserve(self, cpus: float) -> None:
        self._leased_cpus += cpus
        self.engine.dispatcher.policy.reserve(cpus)

    def _give(self, grants: list[Grant]) -> None:
        for grant in grants:
            grant.pool.give(grant)

    def release(self, lease: Lease) -> None:
        """Give back what a lease holds; a second time changes nothing."""
        if lease.num_cpus and not lease.is_lending:
            self._reserve(-lease.num_cpus)
        lease.num_cpus = 0.0
        self._give(lease.grants)
        lease.grants = []
        group, lease.group = lease.group, None
        if group is not None:
            group.num_leases -= 1
            self.groups.free_if_empty(group)
        self.engine.backstop.ring()

    def lend(self, lease: Lease, is_lending: bool) -> None:
        """What has a lease waits for others, or goes on: meanwhile its CPUs, and nothing else, are theirs."""
        if is_lending == lease.is_lending:
            return
        lease.is_lending = is_lending
        if lease.num_cpus:
            self._reserve(-lease.num_cpus if is_lending else lease.num_cpus)
        for grant in lease.grants:
            grant.pool.lend_cpus(grant, is_lending)

    # -- calls -----------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Say whether somebody waits who could be admitted one day."""
        return bool(self._waiting) or self._claim is not None or self.groups.has_work()

    def look(self) -> None:
        """Admit whom there is room for."""
        active = self.engine.dispatcher.active
        for spec in [spec for spec in active if spec.needs is not None]:
            del active[spec]
            self._waiting[spec] = None
        if self._claim is not None:
            self._check_claim(self._claim[0])
            if self._claimed_at and monotonic() - self._claimed_at > PATIENCE_S:
                self._claimed_at = 0.0
                self._empty_workers()
        self.groups.look()
        looks = list(self._waiting)
        for spec in looks:
            spec.send_at = NEVER  # each release looks here again
            while self._has_open(spec) and self._send(spec):
                pass
            if not spec.open:
                self._waiting.pop(spec, None)
                self.withdraw(spec)
                spec.send_at = 1
                if spec.open:  # a submitter was quicker than the line above; the policy must not see it
                    self._waiting[spec] = None
                    looks.append(spec)

    def _check_claim(self, waiter: Any) -> None:
        """Drop a claim that nobody will ever redeem."""
        if isinstance(waiter, TaskSpec):
            is_wanted = waiter in self._waiting
        elif isinstance(waiter, Group):
            is_wanted = waiter.state != REMOVED
        else:
            is_wanted = waiter.is_waiting_for_lease()
        if not is_wanted:
            self.withdraw(waiter)

    def _empty_workers(self) -> None:
        """Take back what ordinary workers have not begun: a claim need not wait for whole batches."""
        dispatcher = self.engine.dispatcher
        for handle in list(dispatcher.by_number.values()):
            if handle.is_up and handle.batches:
                dispatcher.take_back(
                    handle, sum(batch.stop - batch.base for batch in handle.batches.values())
                )

    def _has_open(self, spec: TaskSpec) -> bool:
        """Say whether a call of a spec waits, having dropped those that were cancelled."""
        if spec.run is not None:
            return bool(spec.run.pieces)
        queue = spec.open
        while queue:
            ref = queue[0]
            call = ref._value
            if ref._state is spec and not (call.__class__ is Call and call.is_sent):
                return True
            queue.popleft()
        return False

    def _send(self, spec: TaskSpec) -> bool:
        """Send the first call of a spec to a worker of its own; false if it must wait."""
        needs = spec.needs
        assert needs is not None
        error = self.removed(needs, "task")
        if error is not None:
            crash.fail_queue(self.engine, spec, error)
            return False
        if self._num_running >= MAX_SPECIALISTS:
            return False
        if spec.environment is not None and self.engine.environments.hold((spec,)):
            return False
        lease = self.admit(spec, spec.num_cpus, needs)
        if lease is None:
            return False
        handle = self._worker_for(spec, lease)
        if handle is None:
            self.release(lease)
            return False
        self._num_running += 1
        handle.lease = lease
        dispatcher = self.engine.dispatcher
        self.equip(handle, lease)
        try:
            if spec.run is not None:
                dispatcher.send_run(handle, spec, Send(-1, [(spec.number, self._items(spec))], 0.0, 0.0))
            else:
                self._send_call(handle, spec)
        finally:
            if not handle.batches:
                self.ended(handle)
        return True

    def _send_call(self, handle: WorkerHandle, spec: TaskSpec) -> None:
        dispatcher = self.engine.dispatcher
        refs, _ = dispatcher.pop(spec, 1, 1)
        try:
            dispatcher.send_batch(handle, refs, [(len(refs), spec)])
        except BaseException as error:
            if not isinstance(error, GrainwiseError):
                dispatcher.queue_first(refs)  # a signal handler of the program's raised, or a bug of ours
                raise
            for ref in refs:
                self.engine.results.fail(ref, error)  # such as a value of an earlier session

    def _items(self, spec: TaskSpec) -> int:
        """Return how many items of a run go out together."""
        policy = self.engine.dispatcher.policy
        mean_s = policy.mean_s(spec.number)
        most = 1 + 2 * policy.largest_batch(spec.number)
        return 1 if mean_s is None else max(1, min(most, MAX_ITEMS, int(ITEMS_S / max(mean_s, 1e-7))))

    # -- specialists -----------------------------------------------------------------------------------

    def _worker_for(self, spec: TaskSpec, lease: Lease) -> WorkerHandle | None:
        """Return a worker for a call: an idle one, or a new one where it matters what others have left.

        A process that has used a GPU keeps some of its memory, and one with a limit may be close to it: only
        items of the same `map` have it after each other.
        """
        gpus, limit_bytes = tuple(lease.gpus()), lease.limit_bytes()
        if spec.run is not None or not (gpus or limit_bytes):
            lease.reuse = (spec.number if gpus or limit_bytes else 0, gpus, limit_bytes, spec.environment)
            for handle in reversed(self._idle):
                if self._idle[handle] == lease.reuse:
                    del self._idle[handle]
                    return handle
        if gpus:
            for handle in [each for each, reuse in self._idle.items() if not set(reuse[1]).isdisjoint(gpus)]:
                self._retire(handle)
        try:
            handle = self.engine.pool.start_worker(-1, spec.environment)
        except (OSError, WorkerStartError) as error:
            self.engine.environments.note_start_failure(spec.environment, str(error))
            return None
        handle.limit_bytes = lease.limit_bytes()
        return handle

    def equip(self, handle: WorkerHandle, lease: Lease) -> None:
        """Tell a worker what it has, ahead of what it is to run."""
        gpu_ids = [self.engine.settings.gpu_ids[index] for index in lease.gpus()]
        needs = lease.needs
        assert needs is not None
        group = (needs[1], needs[3]) if lease.group is not None else None
        self.engine.dispatcher.post(
            handle, (EQUIP, told(with_cpus(needs[0], lease.all_cpus)), gpu_ids, group)
        )

    def ended(self, handle: WorkerHandle) -> None:
        """The call of a specialist has ended: it waits for another, or ends."""
        lease, handle.lease = handle.lease, None
        if lease is None:
            return
        self._num_running -= not lease.is_lending
        self.release(lease)
        if handle.verdict is not None:
            return  # it is being killed
        if lease.reuse is None or handle in self._outdated:
            self._retire(handle)
        else:
            handle.used_at = monotonic()
            self._idle[handle] = lease.reuse

    def waits(self, handle: WorkerHandle, is_waiting: bool) -> None:
        """The call of a specialist waits for others, or goes on."""
        lease = handle.lease
        if lease is not None and lease.is_lending != is_waiting:
            self._num_running += -1 if is_waiting else 1
            self.lend(lease, is_waiting)

    def died(self, handle: WorkerHandle) -> None:
        """A worker that may be a specialist is gone."""
        self._idle.pop(handle, None)
        self._outdated.discard(handle)
        lease, handle.lease = handle.lease, None
        if lease is not None:
            self._num_running -= not lease.is_lending
            self.release(lease)

    def _retire(self, handle: WorkerHandle) -> None:
        self._idle.pop(handle, None)
        self._outdated.discard(handle)
        self.engine.dispatcher.post(handle, (EXIT,))

    def tidy(self) -> None:
        """End specialists that have had nothing to do for a while."""
        now = monotonic()
        for handle in [each for each in self._idle if now - each.used_at > IDLE_S]:
            self._retire(handle)

    def renew(self) -> None:
        """Have no call run in a process that began before now."""
        for handle in list(self._idle):
            self._retire(handle)
        self._outdated.update(each for each in self.engine.pool.workers.values() if each.lease is not None)

    # -- groups ----------------------------------------------------------------------------------------

    def removed(self, needs: Needs, kind: str) -> GrainwiseError | None:
        """Return the error of an actor, or a task, whose group has been removed; None if it has not."""
        group = self.groups.find(needs[1]) if needs[1] else None
        return removed_error(group, kind) if needs[1] and (group is None or group.state == REMOVED) else None

    def end_group(self, group: Group) -> None:
        """A group is removed: end what is in it and fail what waits for it."""
        engine = self.engine
        for spec in [spec for spec in self._waiting if spec.needs is not None and spec.needs[1] == group.id]:
            crash.fail_queue(engine, spec, removed_error(group))
        for handle in list(engine.pool.workers.values()):
            if handle.lease is not None and handle.lease.group is group:
                handle.verdict = crash.Verdict(removed_error(group, "running task"))
                engine.pool.kill(handle)
        for actor in list(engine.actors.by_id.values()):
            if _group_of(actor) == group.id:
                kind = "actor" if actor.handle is None else "running actor"
                engine.actors.die(actor, removed_error(group, kind))


def _group_of(actor: Actor) -> str:
    return actor.options.needs[1]
