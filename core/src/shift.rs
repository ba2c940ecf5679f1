//! A worker's day: which tier to ask next and for how many, what of an answer may start, when to go home.
//!
//! A state machine without a clock: whoever drives it does what [`Shift::next`] says, and tells it what came of it.
//!
//! **Strict tiers.** A sweep asks the tiers from the top. What a tier answers starts, and a new sweep begins: nothing
//! of a lower tier starts in a sweep in which a higher one answered. An idle worker asks all tiers at once, and starts
//! what the highest that answered sent.
//!
//! **Room.** What a doorbell's job needs is known with its claim. So each start is given an offer, a part of the free
//! room that no other start has; the claim says what it needs of it, and the rest comes back. A job that needs more
//! than its offer stays in hand until that much is free. Nothing of its tier or a lower one starts before it: small
//! jobs would else take every gap, and a large one would never start. What is in hand may end meanwhile, cancelled say,
//! and nobody tells the worker: so its claim is tried again from time to time, and stays refused or lets it go.

use arrayvec::ArrayVec;

use crate::job::Tier;
use crate::ports::{Received, Room};

/// What a worker does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask this tier for so many; it answers at once.
    Look(Tier, u32),
    /// Ask these tiers for so many, all at once, until the first of them answers.
    Wait(ArrayVec<Tier, 3>, u32),
    /// Start what was in hand.
    Start(Start),
    /// Ask nothing until room comes back.
    Rest,
    /// Nothing runs and nothing is wanted: go.
    Home,
}

/// One message to answer, and the room that its claim may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The message.
    pub received: Received,
    /// What the claim may take.
    pub offer: Room,
}

/// What becomes of a message that a receive answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Claim it and run it.
    Start(Start),
    /// Let others have it, at once.
    Release(Received),
}

/// What goes back when a job needs more than its claim was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Back {
    /// Let others have it, at once.
    Release(Received),
    /// Let others have it, after a pause: it is larger than this worker, and would be back at once.
    Decline(Received),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    received: Received,
    needs: Room,
    /// Its claim is being tried again: it starts nowhere else until that is answered.
    tried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Works,
    /// It says that it leaves, and sweeps once more: whoever rang before it said so is heard.
    Tired,
    /// It was told to leave.
    Told,
}

/// A worker's room, what it has in hand, and how far its sweep has come.
#[derive(Clone, Debug)]
pub struct Shift {
    capacity: Room,
    free: Room,
    /// What the last job needed: how many more of its kind there is room for says how many to ask for.
    usual: Room,
    /// The tiers of this sweep that have answered with nothing.
    asked: usize,
    hand: Option<Kept>,
    mood: Mood,
    rests: bool,
}

impl Shift {
    /// A shift on a worker with this room, all of it free.
    pub fn new(capacity: Room) -> Self {
        Self {
            capacity,
            free: capacity,
            usual: capacity.shared_by(capacity.slots),
            asked: 0,
            hand: None,
            mood: Mood::Works,
            rests: false,
        }
    }

    /// What is not taken.
    pub fn free(&self) -> Room {
        self.free
    }

    /// Whether nothing runs, and nothing is about to.
    pub fn is_idle(&self) -> bool {
        self.free == self.capacity && self.hand.is_none()
    }

    /// Whether it takes nothing new any more, or will not if nothing comes now.
    pub fn is_leaving(&self) -> bool {
        match self.mood {
            Mood::Works => false,
            Mood::Tired | Mood::Told => true,
        }
    }

    /// What to do next. What it says is taken as done: a start has its room.
    #[expect(clippy::should_implement_trait, reason = "a day is no iterator: it has no end of its own")]
    pub fn next(&mut self) -> Next {
        let next = self.decide();
        self.rests = next == Next::Rest;
        if let Next::Start(start) = &next {
            self.hand = None;
            self.asked = 0;
            self.free = self.free.less(start.offer);
        }
        next
    }

    fn decide(&mut self) -> Next {
        if self.mood == Mood::Told {
            return if self.is_idle() { Next::Home } else { Next::Rest };
        }
        let places = self.places();
        // What is in hand goes before its own tier and all below.
        let above = self.hand.as_ref().map_or(Tier::ALL.len(), |kept| usize::from(kept.received.lane.tier.rank()));
        if places > 0 && !(self.is_idle() && self.mood == Mood::Works) && self.asked < above {
            return Next::Look(Tier::ALL[self.asked], places);
        }
        if let Some(kept) = &self.hand
            && !kept.tried
            && kept.needs.fits_in(self.free)
        {
            return Next::Start(Start { received: kept.received.clone(), offer: kept.needs });
        }
        if self.mood == Mood::Tired && self.is_idle() {
            return Next::Home;
        }
        let open: ArrayVec<Tier, 3> = Tier::ALL[..above].iter().copied().collect();
        if places > 0 && !open.is_empty() { Next::Wait(open, places) } else { Next::Rest }
    }

    /// Tells what a receive answered, and says what becomes of each message.
    pub fn heard(&mut self, received: Vec<Received>) -> Vec<Act> {
        let Some(highest) = received.iter().map(|received| received.lane.tier).min() else {
            self.asked += 1;
            return Vec::new();
        };
        self.asked = 0;
        let waits = self.hand.as_ref().is_some_and(|kept| kept.received.lane.tier <= highest);
        let refused = waits || self.mood == Mood::Told;
        let places = if refused { 0 } else { self.places() };
        let offer = self.free.shared_by(places);
        let mut left = places;
        let acts = received.into_iter().map(|received| {
            if left == 0 || received.lane.tier != highest {
                return Act::Release(received);
            }
            left -= 1;
            self.mood = Mood::Works;
            self.free = self.free.less(offer);
            Act::Start(Start { received, offer })
        });
        acts.collect()
    }

    /// Tells that a claim was won, and what of its offer the job needs. Answers whether whoever waits looks again.
    pub fn claimed(&mut self, start: &Start, needs: Room) -> bool {
        self.usual = needs;
        let opened = self.lost(start);
        self.given(start.offer.less(needs)) || opened
    }

    /// Tells that a claim was refused for another reason than room, or could not be made; its offer is given back by
    /// [`Shift::given`]. Answers whether it was in hand: whoever waits looks again then, and may ask lower tiers.
    pub fn lost(&mut self, start: &Start) -> bool {
        let was_in_hand = self.hand.take_if(|kept| kept.tried && kept.received.message == start.received.message);
        if was_in_hand.is_some() {
            self.asked = 0;
        }
        was_in_hand.is_some()
    }

    /// Whether something waits in hand.
    pub fn has_in_hand(&self) -> bool {
        self.hand.is_some()
    }

    /// Tries the claim of what is in hand again, with all the room there is: the answer says whether it is still to be
    /// waited for. It stays in hand, and its tier and those below shut, until that is told. Nothing, when it is being
    /// tried, or fits: then it starts in its turn, after the tiers above were asked.
    pub fn renew(&mut self) -> Option<Start> {
        let offer = self.free;
        let kept = self.hand.as_mut().filter(|kept| !kept.tried && !kept.needs.fits_in(offer))?;
        kept.tried = true;
        self.free = Room::default();
        Some(Start { received: kept.received.clone(), offer })
    }

    /// Tells that a job needs more than its claim was offered. It is kept, unless one that goes first is in hand; says
    /// what goes back, which may be what was in hand before. Whoever waits looks again.
    pub fn refused(&mut self, start: Start, needs: Room) -> Option<Back> {
        self.lost(&start);
        let Start { received, offer } = start;
        self.given(offer);
        if !needs.fits_in(self.capacity) {
            return Some(Back::Decline(received));
        }
        self.usual = needs;
        let goes_first = self.hand.as_ref().is_some_and(|kept| kept.received.lane.tier <= received.lane.tier);
        if goes_first || self.mood == Mood::Told {
            return Some(Back::Release(received));
        }
        self.asked = 0;
        let before = self.hand.replace(Kept { received, needs, tried: false });
        // One that is being tried again goes back when that is answered.
        before.filter(|kept| !kept.tried).map(|kept| Back::Release(kept.received))
    }

    /// Tells that room came back: a run has ended, or its claim was lost. Answers whether whoever waits looks again.
    pub fn given(&mut self, back: Room) -> bool {
        let fits = |shift: &Self| shift.hand.as_ref().is_some_and(|kept| kept.needs.fits_in(shift.free));
        let before = fits(self);
        self.free = self.free.plus(back);
        // Only then: a sweep that began anew with each run that ends would not come to its end.
        let again = (!before && fits(self)) || (self.rests && (self.places() > 0 || self.is_idle()));
        if again {
            self.asked = 0;
        }
        again
    }

    /// Tells that nothing came for as long as it may wait idle: it sweeps once more, and goes home if nothing comes.
    pub fn tire(&mut self) {
        if self.mood == Mood::Works && self.is_idle() {
            self.mood = Mood::Tired;
            self.asked = 0;
        }
    }

    /// Tells it to leave: it asks nothing any more, and goes home when the last run has ended. What was in hand goes
    /// back; at once, unless it is being tried again.
    pub fn leave(&mut self) -> Option<Received> {
        self.mood = Mood::Told;
        self.hand.take().filter(|kept| !kept.tried).map(|kept| kept.received)
    }

    /// How many more jobs of the usual size there is room for; one, as long as there is any: it may be smaller.
    fn places(&self) -> u32 {
        let Room { slots, milli_vcpu, memory_mib } = self.free;
        if slots == 0 || milli_vcpu == 0 || memory_mib == 0 {
            return 0;
        }
        let by_vcpu = milli_vcpu / self.usual.milli_vcpu.max(1);
        let by_memory = memory_mib / self.usual.memory_mib.max(1);
        slots.min(by_vcpu).min(by_memory).max(1)
    }
}

#[cfg(test)]
mod tests;
